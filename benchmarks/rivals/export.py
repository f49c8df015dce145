"""Models as ONNX, once for all rivals that read it."""

from __future__ import annotations

import contextlib
import io
import weakref

import torch
from torch import nn

from benchmarks.rivals import Example

_known: weakref.WeakKeyDictionary[nn.Module, dict[tuple[torch.Size, ...], bytes]] = weakref.WeakKeyDictionary()


def onnx_bytes(model: nn.Module, example: Example) -> bytes:
    """The model for the example's shapes: the exporter that keeps recurrent layers whole, else the newer one."""
    key = tuple(tensor.shape for tensor in example)
    known = _known.setdefault(model, {})
    if key not in known:
        file = io.BytesIO()
        # Both exporters print; a table is being printed.
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            try:
                torch.onnx.export(model, example, file, dynamo=False, opset_version=17)
            except Exception:
                file = io.BytesIO()
                torch.onnx.export(model, example, file, dynamo=True, verbose=False)
        known.clear()  # one shape at a time: a large model's bytes are as large as its weights
        known[key] = file.getvalue()
    return known[key]
