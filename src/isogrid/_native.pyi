"""The native core: codecs of sparse positions, and what this processor can do.

The formats are defined in native/include/isogrid/rice.hpp and bitmap.hpp. Positions are C-contiguous int64 arrays of
flat C-order indices, strictly ascending, each in ``[0, size)``; they are never converted, so another dtype is a
TypeError.
"""

import numpy as np
import numpy.typing as npt

version: str

def rice_encode(positions: npt.NDArray[np.int64], size: int) -> bytes: ...
def rice_decode(data: bytes, count: int, size: int) -> npt.NDArray[np.int64]: ...
def bitmap_encode(positions: npt.NDArray[np.int64], size: int) -> bytes: ...
def bitmap_decode(data: bytes, count: int, size: int) -> npt.NDArray[np.int64]: ...
def cpu_features() -> dict[str, bool | str]: ...
