"""ONNX Runtime at each of its optimisation levels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.common.contest import UnavailableError
from benchmarks.rivals import Example, FeatureMajor, Rival, Setting, is_channels_last
from benchmarks.rivals.export import onnx_bytes


class _Bound:
    """The first call hands out the outputs, for comparing; those that are timed leave them where they are."""

    def __init__(self, session: Any, binding: Any, first: Callable[[], list[Any]]) -> None:
        self._run, self._binding, self._first = session.run_with_iobinding, binding, first
        self._compared = False

    def __call__(self) -> Any:
        if not self._compared:
            self._compared = True
            return self._first()
        return self._run(self._binding)


def _quantized(data: bytes) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "dense.onnx"), Path(folder, "int8.onnx")
        before.write_bytes(data)
        # Products of 8 by 8 bits overflow their sums on processors without VNNI: seven bits are what it advises there.
        quantize_dynamic(before, after, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
        return after.read_bytes()


class OnnxRuntime(Rival):
    """A session of its own, with a pool of its own."""

    name = "ONNX Runtime"

    def settings(self, model: nn.Module, example: Example, thorough: bool) -> list[Setting]:
        """Optimisation levels; int8 with dynamic scales of the activations where it has it."""
        if is_channels_last(example):
            return []
        layout = "W @ X, " if isinstance(model, FeatureMajor) else ""
        levels = ("all", "extended", "basic") if thorough else ("all",)
        found = [Setting(f"{layout}level {level}", options={"level": level}) for level in levels]
        kinds = {type(module) for module in model.modules()}
        if nn.Linear in kinds and nn.Conv2d not in kinds:
            found.append(Setting("quantize_dynamic", "int8", {"level": "all"}))
        return found

    def prepare(
        self, model: nn.Module, example: Example, threads: int, values: str = "fp32", *, level: str = "all", **_: Any
    ) -> Callable[[], Any]:
        """A session whose inputs and outputs are bound, so that a call copies nothing."""
        try:
            import onnxruntime as ort
        except ImportError:
            raise UnavailableError("onnxruntime is not installed") from None
        data = onnx_bytes(model, example)
        if values == "int8":
            data = _quantized(data)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = {
            "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
            "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
            "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        }[level]
        # Its threads spin within a call as they do by default, but not after it, on the core of whoever is next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        arrays = [tensor.detach().contiguous().numpy() for tensor in example]
        for node, array in zip(session.get_inputs(), arrays, strict=True):
            binding.bind_cpu_input(node.name, array)
        for node in session.get_outputs():
            binding.bind_output(node.name)

        def first() -> list[Any]:
            session.run_with_iobinding(binding)
            return list(binding.copy_outputs_to_cpu())

        return _Bound(session, binding, first)


RIVAL = OnnxRuntime()
