"""Models as ONNX, once for all rivals that read it."""

from __future__ import annotations

import contextlib
import io

import torch
from torch import nn

from benchmarks.rivals import Example
from benchmarks.rivals.cache import made


def onnx_bytes(model: nn.Module, example: Example) -> bytes:
    """The model for the example's shapes."""
    key = ("onnx", *(tensor.shape for tensor in example))
    data: bytes = made(model, key, lambda: _export(model, example))
    return data


def _export(model: nn.Module, example: Example) -> bytes:
    """By the exporter that keeps recurrent layers whole, else by the newer one; what they print is no news here."""
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        try:
            file = io.BytesIO()
            torch.onnx.export(model, example, file, dynamo=False, opset_version=17)
        except Exception:
            file = io.BytesIO()
            torch.onnx.export(model, example, file, dynamo=True, verbose=False)
        return file.getvalue()
