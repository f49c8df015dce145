"""ONNX models on the native kernels inside ONNX Runtime: `pack` and `unpack`.  Nothing here needs PyTorch.

`finding` finds layers with constant weights, `fusing` what can be done in the same pass, `choosing` decides which of
them gain, `replacing` puts the operators of docs/decisions/0009-packed-onnx.md in their place, and `packer` compares
the result with the original before it writes a file.
"""

from isogrid.runtime.packing.packer import pack as pack
from isogrid.runtime.packing.report import NodeReport as NodeReport
from isogrid.runtime.packing.report import PackReport as PackReport
from isogrid.runtime.packing.unpacking import unpack as unpack
