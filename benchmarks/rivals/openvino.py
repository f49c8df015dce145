"""OpenVINO, tuned for latency."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.common.contest import UnavailableError
from benchmarks.rivals import Example, FeatureMajor, Rival, Setting, is_channels_last
from benchmarks.rivals.export import onnx_bytes


class OpenVino(Rival):
    """One stream, and as many threads as are allowed."""

    name = "OpenVINO"

    def settings(self, model: nn.Module, example: Example, thorough: bool) -> list[Setting]:
        """One: it chooses layouts by itself."""
        if is_channels_last(example):
            return []
        return [Setting("W @ X" if isinstance(model, FeatureMajor) else "latency")]

    def prepare(
        self, model: nn.Module, example: Example, threads: int, values: str = "fp32", **_: Any
    ) -> Callable[[], Any]:
        """A request that shares the memory of its inputs and outputs."""
        try:
            import openvino as ov
        except ImportError:
            raise UnavailableError("openvino is not installed (pip install --group bench)") from None
        core = ov.Core()
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = core.compile_model(core.read_model(onnx_bytes(model, example)), "CPU", config)
        request = compiled.create_infer_request()
        arrays = [tensor.detach().contiguous().numpy() for tensor in example]
        for index, array in enumerate(arrays):
            request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))
        outputs = [request.get_output_tensor(index).data for index in range(len(compiled.outputs))]

        def call() -> list[Any]:
            request.infer()
            return outputs

        call.keep = (compiled, arrays)  # type: ignore[attr-defined]
        return call


RIVAL = OpenVino()
