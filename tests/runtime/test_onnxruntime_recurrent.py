"""SparseLSTM and SparseGRU in ONNX Runtime give what the formulas of ONNX give."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.packed import VALUES, infers_shapes, inputs, model, node, pack, session, weights

COLUMNS, UNITS = 13, 12
GATES = {"SparseLSTM": 4, "SparseGRU": 3}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
KINDS = tuple(GATES)

Array = NDArray[Any]


@dataclass
class Layer:
    """The weights of one layer and what they must give."""

    kind: str
    direction: str
    w: list[Array]
    r: list[Array]
    bias: Array | None

    @classmethod
    def random(cls, random: np.random.Generator, kind: str, direction: str, bias: bool = True) -> Layer:
        rows, count = GATES[kind] * UNITS, DIRECTIONS[direction]
        return cls(
            kind,
            direction,
            [weights(random, rows, COLUMNS, 0.3) for _ in range(count)],
            [weights(random, rows, UNITS, 0.3) for _ in range(count)],
            inputs(random, count, 2 * rows) if bias else None,
        )

    def reference(self, x: Array, h0: Array | None, c0: Array | None) -> tuple[Array, Array, Array]:
        steps, batch, _ = x.shape
        count = len(self.w)
        y = np.zeros((steps, count, batch, UNITS))
        last_h, last_c = np.zeros((2, count, batch, UNITS))
        for d in range(count):
            h = np.zeros((batch, UNITS)) if h0 is None else h0[d].astype(np.float64)
            c = np.zeros((batch, UNITS)) if c0 is None else c0[d].astype(np.float64)
            order = range(steps)
            for t in reversed(order) if d == 1 or self.direction == "reverse" else order:
                h, c = self.step(d, x[t].astype(np.float64), h, c)
                y[t, d] = h
            last_h[d], last_c[d] = h, c
        return y, last_h, last_c

    def step(self, d: int, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        from_x, from_h = x @ self.w[d].T.astype(np.float64), h @ self.r[d].T.astype(np.float64)
        if self.bias is not None:
            b, e = np.split(self.bias[d].astype(np.float64), 2)
            from_x, from_h = from_x + b, from_h + e
        gates = list(zip(np.split(from_x, GATES[self.kind], -1), np.split(from_h, GATES[self.kind], -1), strict=True))
        if self.kind == "SparseLSTM":
            i, f, g, o = (p + q for p, q in gates)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            return sigmoid(o) * np.tanh(c), c
        (rx, rh), (zx, zh), (nx, nh) = gates
        z = sigmoid(zx + zh)
        return (1 - z) * np.tanh(nx + sigmoid(rx + rh) * nh) + z * h, c

    def session(self, values: str = "fp32", states: str = "", asked: str | None = None, threads: int = 2) -> Any:
        """`states` and `asked` name what is given and what is asked for: of h and c, of y, h and c."""
        lstm = self.kind == "SparseLSTM"
        constants: dict[str, Any] = {}
        names = ["x", "", "", "", "", "", "", ""][: 8 if lstm else 7]
        for d, (w, r) in enumerate(zip(self.w, self.r, strict=True)):
            constants |= {f"w{d}": pack(w, values), f"r{d}": pack(r, values)}
            names[1 + 2 * d], names[2 + 2 * d] = f"w{d}", f"r{d}"
        if self.bias is not None:
            constants["b"] = self.bias
            names[5] = "b"
        given: dict[str, Any] = {"x": ("steps", "batch", COLUMNS)}
        for place, state in enumerate("hc"):
            if state in states:
                names[6 + place] = state + "0"
                given[state + "0"] = (len(self.w), "batch", UNITS)
        while not names[-1]:
            names.pop()
        asked = ("yhc" if lstm else "yh") if asked is None else asked
        made = [name if name in asked + "y" else "" for name in ("yhc" if lstm else "yh")]
        while not made[-1]:
            made.pop()
        attributes = {"hidden_size": UNITS, "direction": self.direction}
        return session(model([node(self.kind, names, made, **attributes)], given, list(asked), constants), threads)


def sigmoid(x: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-x))
    return result


def close(found: Array, right: Array) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-5)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("kind", "direction", "values"), list(product(KINDS, DIRECTIONS, VALUES)))
def test_every_direction_and_length(kind: str, direction: str, values: str, random: np.random.Generator) -> None:
    layer = Layer.random(random, kind, direction)
    made = layer.session(values)
    for steps, batch in ((1, 1), (7, 1), (1, 3), (5, 2), (6, 9), (0, 2), (3, 0)):
        x = inputs(random, steps, batch, COLUMNS)
        for found, right in zip(made.run(None, {"x": x}), layer.reference(x, None, None), strict=False):
            close(found, right)


@pytest.mark.parametrize(("kind", "direction", "bias"), list(product(KINDS, DIRECTIONS, [False, True])))
def test_states_before(kind: str, direction: str, bias: bool, random: np.random.Generator) -> None:
    layer = Layer.random(random, kind, direction, bias)
    for states in ("h", "c", "hc") if kind == "SparseLSTM" else ("h",):
        made = layer.session(states=states)
        for batch in (1, 4):
            x = inputs(random, 5, batch, COLUMNS)
            before = {state: inputs(random, DIRECTIONS[direction], batch, UNITS) for state in states}
            feeds = {"x": x} | {state + "0": value for state, value in before.items()}
            right = layer.reference(x, before.get("h"), before.get("c"))
            for found, expected in zip(made.run(None, feeds), right, strict=False):
                close(found, expected)


@pytest.mark.parametrize(("kind", "direction"), list(product(KINDS, DIRECTIONS)))
def test_any_of_the_outputs_may_be_left_out(kind: str, direction: str, random: np.random.Generator) -> None:
    layer = Layer.random(random, kind, direction)
    for asked in ("y", "h", "yh", *(("c", "yc", "hc") if kind == "SparseLSTM" else ())):
        made = layer.session(asked=asked)
        for batch in (1, 3):
            x = inputs(random, 4, batch, COLUMNS)
            right = dict(zip("yhc", layer.reference(x, None, None), strict=True))
            for name, found in zip(asked, made.run(None, {"x": x}), strict=True):
                close(found, right[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made", [[], ["", "h"]])
def test_the_first_output_must_have_a_name(kind: str, made: list[str], random: np.random.Generator) -> None:
    layer = Layer.random(random, kind, "forward")
    one = node(kind, ["x", "w", "r"], made, hidden_size=UNITS)
    constants = {"w": pack(layer.w[0]), "r": pack(layer.r[0])}
    with pytest.raises(Exception, match=r"output"):
        session(model([one], {"x": ("s", "b", COLUMNS)}, made[1:], constants))


def test_shapes_are_inferred_and_names_of_sizes_kept(random: np.random.Generator) -> None:
    made = Layer.random(random, "SparseLSTM", "bidirectional").session()
    if infers_shapes():
        assert made.get_outputs()[0].shape == ["steps", 2, "batch", UNITS]


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_threads(kind: str, threads: int, random: np.random.Generator) -> None:
    layer = Layer.random(random, kind, "bidirectional")
    x = inputs(random, 6, 5, COLUMNS)
    for found, right in zip(layer.session(threads=threads).run(None, {"x": x}), layer.reference(x, None, None)):  # noqa: B905
        close(found, right)


def test_what_does_not_fit_is_refused(random: np.random.Generator) -> None:
    layer = Layer.random(random, "SparseLSTM", "forward")
    made = layer.session(states="h")
    x = inputs(random, 3, 2, COLUMNS)
    with pytest.raises(Exception, match=r"SparseLSTM node 'node': initial_h has the shape \[1, 3, 12\], accepted is"):
        made.run(None, {"x": x, "h0": np.zeros((1, 3, UNITS), np.float32)})

    constants = {"w": pack(layer.w[0]), "r": pack(layer.r[0])}

    def refused(sentence: str, names: list[str] | None = None, kind: str = "SparseLSTM", **attributes: Any) -> None:
        one = node(kind, names or ["x", "w", "r"], ["y"], **attributes)
        with pytest.raises(Exception, match=sentence):
            session(model([one], {"x": ("s", "b", COLUMNS)}, ["y"], constants))

    refused("attribute hidden_size is missing")
    refused("attribute hidden_size is 0, accepted are numbers from 1", hidden_size=0)
    refused("attribute direction is 'up', accepted are forward, reverse, bidirectional", hidden_size=12, direction="up")
    refused("input W is 48 x 13, accepted is 44 x 13", hidden_size=11)
    refused("input W is 48 x 13, accepted is 36 x 13", kind="SparseGRU", hidden_size=12)
    refused("input R is 48 x 13, accepted is 48 x 12", ["x", "r", "w"], hidden_size=12)
    refused("W of the reverse direction is missing", hidden_size=12, direction="bidirectional")
    refused("there are weights of the reverse direction", ["x", "w", "r", "w", "r"], hidden_size=12)
    constants["b"] = np.zeros((1, 95), np.float32)
    refused(r"input B has the shape \[1, 95\], accepted is \[1, 96\]", ["x", "w", "r", "", "", "b"], hidden_size=12)
    constants["b"] = np.zeros((1, 96), np.uint8)
    refused("Type Error|type", ["x", "w", "r", "", "", "b"], hidden_size=12)
    constants |= {"r": pack(layer.r[0], "int8")}
    refused("both matrices of a recurrent layer must have values of the same type", hidden_size=12)
