"""The operators of packed models written as their decision says, in numpy, for onnx's reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_conv

from conformance.packed import activated
from isogrid.formats.packed import unpack_matrix


def matrix(packed: NDArray[np.uint8]) -> NDArray[np.float64]:
    return unpack_matrix(packed.tobytes()).to_dense().astype(np.float64)


def finished(y: NDArray[Any], bias: Any, residual: Any, axis: int, activation: str, low: float, high: float) -> Any:
    if bias is not None:
        y = y + bias.reshape([-1 if a == axis % y.ndim else 1 for a in range(y.ndim)])
    if residual is not None:
        assert residual.shape == y.shape
        y = y + residual
    return (activated(np.asarray(y, np.float64), activation, low, high).astype(np.float32),)


class SparseLinear(OpRun):
    op_domain = "isogrid"

    def _run(self, x, packed, bias=None, residual=None, rows=None, skip_zeros=0, activation="none", low=0.0, high=0.0):
        weight = matrix(packed)
        assert weight.shape == (rows, x.shape[-1])
        return finished(x @ weight.T, bias, residual, -1, activation, low, high)


class SparseConv(OpRun):
    op_domain = "isogrid"

    def _run(
        self, x, packed, bias=None, residual=None, rows=None, kernel_shape=None, strides=None, pads=None,
        dilations=None, group=1, activation="none", low=0.0, high=0.0,
    ):  # fmt: skip
        weight = matrix(packed).reshape(rows, -1, *kernel_shape)
        assert weight.shape[1] * group == x.shape[1]
        y = op_conv._conv_implementation(
            x.astype(np.float64), weight, None, "NOTSET", dilations, group, kernel_shape, pads, strides
        )
        return finished(y, bias, residual, 1, activation, low, high)


class SparseGather(OpRun):
    op_domain = "isogrid"

    def _run(self, packed, indices, columns=None):
        table = matrix(packed).astype(np.float32)
        assert table.shape[1] == columns
        return (table[indices],)


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    return 1 / (1 + np.exp(-x))


class _Recurrent(OpRun):
    gates = 0

    def walk(self, x, weights, bias, h0, c0, units, direction):
        results, last = [], []
        for index in range(len(weights) // 2):
            w, r = weights[2 * index], weights[2 * index + 1]
            rows = self.gates * units
            b = np.zeros(2 * rows) if bias is None else bias[index]
            h = np.zeros((x.shape[1], units)) if h0 is None else h0[index].astype(np.float64)
            c = np.zeros_like(h) if c0 is None else c0[index].astype(np.float64)
            backwards = direction == "reverse" or index == 1
            steps = []
            for step in x[::-1] if backwards else x:
                h, c = self.step(step @ w.T + b[:rows], h @ r.T + b[rows:], h, c)
                steps.append(h)
            results.append(np.stack(steps[::-1] if backwards else steps))
            last.append((h, c))
        y = np.stack(results, axis=1).astype(np.float32)
        return y, *(np.stack(part).astype(np.float32) for part in zip(*last, strict=True))


class SparseLSTM(_Recurrent):
    op_domain = "isogrid"
    gates = 4

    def step(self, wx, uh, h, c):
        i, f, g, o = np.split(wx + uh, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    def _run(self, x, w, r, w2=None, r2=None, b=None, h=None, c=None, hidden_size=None, direction=None):
        weights = [matrix(packed) for packed in (w, r, w2, r2) if packed is not None]
        return self.walk(x, weights, b, h, c, hidden_size, direction)


class SparseGRU(_Recurrent):
    op_domain = "isogrid"
    gates = 3

    def step(self, wx, uh, h, c):
        (wr, wz, wn), (ur, uz, un) = np.split(wx, 3, axis=1), np.split(uh, 3, axis=1)
        z = sigmoid(wz + uz)
        n = np.tanh(wn + sigmoid(wr + ur) * un)
        return (1 - z) * n + z * h, c

    def _run(self, x, w, r, w2=None, r2=None, b=None, h=None, hidden_size=None, direction=None):
        weights = [matrix(packed) for packed in (w, r, w2, r2) if packed is not None]
        return self.walk(x, weights, b, h, None, hidden_size, direction)[:2]


OPERATORS = [SparseLinear, SparseConv, SparseGather, SparseLSTM, SparseGRU]


def evaluate(model: Any, feeds: dict[str, Any]) -> list[Any]:
    """The outputs of a packed model, computed without the native core."""
    return list(ReferenceEvaluator(model, new_ops=OPERATORS).run(None, feeds))
