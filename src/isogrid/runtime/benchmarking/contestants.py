"""Who runs a model: ONNX Runtime as it is, its 8-bit quantisation, OpenVINO, and the native sparse operators."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.runtime.session import Session, require_onnxruntime

Feeds = Mapping[str, Any]
Outputs = list[NDArray[Any]]


class Bound:
    """A model with its inputs and outputs in place, so that a call computes and copies nothing.

    Attributes:
        outputs: of one call, to compare.
    """

    def __init__(self, call: Callable[[], Any], outputs: Outputs, keep: Any) -> None:
        self._call = call
        self.outputs = outputs
        self._keep = keep

    def __call__(self) -> None:
        """Run the model once."""
        self._call()


def in_onnxruntime(model: str, feeds: Feeds, threads: int) -> Bound:
    """The file in ONNX Runtime; a packed one runs on the native operators.

    Raises:
        FormatError: ONNX Runtime refuses it.
    """
    ort = require_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.inter_op_num_threads = 1
    # Its threads spin within a call as they do by default, but not after it, on the core of whoever is next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = Session(model, threads=threads, options=options)
    outputs = session.run(feeds)
    binding = session.inner.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(array))
    for port in session.outputs:
        binding.bind_output(port.name)
    return Bound(lambda: session.inner.run_with_iobinding(binding), outputs, session)


def in_openvino(model: str, feeds: Feeds, threads: int) -> Bound:
    """The file in OpenVINO, tuned for latency, in float32.

    Raises:
        ImportError: openvino is not installed.
        Exception: whatever OpenVINO says to the model.
    """
    import openvino as ov  # type: ignore[import-not-found, import-untyped, unused-ignore]

    core = ov.Core()
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = core.compile_model(core.read_model(model), "CPU", config)
    request = compiled.create_infer_request()
    arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
    for name, array in arrays.items():
        request.set_tensor(name, ov.Tensor(array, shared_memory=True))
    request.infer()
    outputs = [np.array(request.get_output_tensor(index).data) for index in range(len(compiled.outputs))]
    return Bound(request.infer, outputs, (compiled, arrays))


def quantized(model: str, folder: Path, feeds: Feeds) -> Iterator[tuple[str, str]]:
    """ONNX Runtime's own 8-bit versions of a model: what was done, and the file.

    Both of its ways are tried: activations quantised as they come, and with scales from `feeds` beforehand.  Products
    of 8 by 8 bits overflow their sums on processors without VNNI; weights have seven bits there, as it advises.
    """
    from onnxruntime.quantization import (  # type: ignore[import-untyped]
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = [dict(feeds)]

        def get_next(self) -> dict[str, Any] | None:
            return self._rest.pop() if self._rest else None

    seven = not has_vnni()
    prepared = str(folder / "prepared.onnx")
    with _silence():
        try:
            quant_pre_process(model, prepared, skip_symbolic_shape=True)
        except Exception:  # preparing is only advised
            prepared = model
    for label, name in (("dynamic", "dynamic.onnx"), ("static", "static.onnx")):
        path = str(folder / name)
        try:
            with _silence():
                if label == "dynamic":
                    quantize_dynamic(prepared, path, weight_type=QuantType.QInt8, per_channel=True, reduce_range=seven)
                else:
                    quantize_static(
                        prepared, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=seven,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                    )  # fmt: skip
        except Exception:  # noqa: S112 - what it cannot quantise takes no part
            continue
        yield label, path


def has_vnni() -> bool:
    """Whether this processor has 8-bit products with 32-bit sums.

    >>> has_vnni() in (True, False)
    True
    """
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "vnni" in flags or "asimddp" in flags


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what another library prints to itself."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
