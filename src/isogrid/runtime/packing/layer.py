"""A layer of an ONNX graph: nodes that one operator of the domain `isogrid` could take the place of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from isogrid.runtime.cost import Work
from isogrid.runtime.epilogue import Epilogue

Shape = tuple[int, ...]
Matrix = NDArray[np.float32]


@dataclass(eq=False)
class Layer:
    """What is known of a layer, and what is fused with it.

    Attributes:
        name: of its weights in the file, or of its node.
        kind: ``"linear"``, ``"conv1d"``, ``"conv2d"``, ``"depthwise"``, ``"embedding"``, ``"lstm"`` or ``"gru"``.
        shape: of the weights as the file has them.
        node: the node that computes it; `nodes` begins with it.
        x: what it is applied to.
        weights: the constant values of the graph that it uses, by which bytes are counted.
        load: its matrices ``[rows, columns]`` as float32, before anything is folded in.
        attributes: of the operator.
        bias: ``[rows]``, or None (recurrent layers: as the operator wants it).
        turned: the input has its tokens along the last axis.
        folded: a factor for each row, from a batch norm, or None.
        residual: what is added, of the shape of the result.
        epilogue: the activation.
        nodes: all that the operator stands for, in order.
        layout: the one of them, if any, that gives the product another shape; it stays, but after the operator.
        row_axes: the axes that the rows lie along then, from one up to another.
        states: further inputs of a recurrent layer.
    """

    name: str
    kind: str
    shape: Shape
    node: ir.Node
    x: ir.Value
    weights: tuple[ir.Value, ...]
    load: Callable[[], tuple[Matrix, ...]]
    attributes: dict[str, Any] = field(default_factory=dict)
    bias: NDArray[np.float32] | None = None
    turned: bool = False
    folded: NDArray[np.float32] | None = None
    residual: ir.Value | None = None
    epilogue: Epilogue = field(default_factory=Epilogue)
    nodes: list[ir.Node] = field(default_factory=list)
    layout: ir.Node | None = None
    row_axes: tuple[int, int] = (0, 0)
    states: tuple[ir.Value | None, ...] = ()
    _nonzeros: int | None = None

    def __post_init__(self) -> None:
        self.nodes = self.nodes or [self.node]

    @property
    def result(self) -> ir.Value:
        """What the operator's first output takes the place of."""
        return self.nodes[-1].outputs[0]

    @property
    def parameters(self) -> int:
        """Weights, zeros among them."""
        return math.prod(self.shape)

    @property
    def nonzeros(self) -> int:
        """Weights that are not zero."""
        if self._nonzeros is None:
            self._nonzeros = sum(int(np.count_nonzero(matrix)) for matrix in self.load())
        return self._nonzeros

    def matrices(self) -> tuple[Matrix, ...]:
        """What is to be packed."""
        if self.folded is None:
            return self.load()
        return tuple(np.ascontiguousarray(matrix * self.folded[:, None]) for matrix in self.load())

    def work(self, shapes: Mapping[str, Shape]) -> Work | None:
        """What the layer does on an example whose values have these shapes; None where that is not known."""
        x, result = shapes.get(self.x.name or ""), shapes.get(self.node.outputs[0].name or "")
        if self.kind == "embedding" or x is None:
            return None
        if self.kind == "linear":
            tokens = math.prod(x[1:]) if self.turned else math.prod(x[:-1])
            return Work(self.attributes["rows"], self.columns, self.nonzeros, max(tokens, 1), math.prod(x))
        if self.kind in ("lstm", "gru"):
            _, batch, columns = x
            units = self.attributes["hidden_size"]
            tall = self.parameters // (columns + units)
            return Work(tall, columns + units, self.nonzeros, max(batch, 1), batch * (columns + units))
        if result is None:
            return None
        places = x[0] * math.prod(result[2:])
        return Work(self.shape[0], math.prod(self.shape[1:]), self.nonzeros, max(places, 1), math.prod(x))

    @property
    def columns(self) -> int:
        """Of a single matrix."""
        return self.parameters // int(self.attributes["rows"])

    def calls(self, shapes: Mapping[str, Shape]) -> int:
        """How often the weights are gone through in one run of the model."""
        x = shapes.get(self.x.name or "")
        return x[0] if x is not None and self.kind in ("lstm", "gru") else 1

    @property
    def fused(self) -> str:
        """What is done in the same pass, for people."""
        parts = [
            "bias" if self.bias is not None else "",
            "batch norm" if self.folded is not None else "",
            "residual" if self.residual is not None else "",
            "" if self.epilogue.activation == "none" else str(self.epilogue),
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Left:
    """A layer with stored weights that stays as it is, and why."""

    name: str
    kind: str
    shape: Shape
    node: ir.Node
    weights: tuple[ir.Value, ...]
    reason: str
