"""Which layers are packed: by the cost model, or as told."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from isogrid.errors import UsageError, first_line
from isogrid.names import unknown_name
from isogrid.runtime.cost import MARGIN, gain
from isogrid.runtime.packing.layer import Layer, Left, Shape

_SMALLER = 0.75
"""A table that is looked up is packed if it then takes at most this share of its bytes: reading a few rows is quick."""


_ELEMENTWISE = frozenset(
    {
        "Add", "BatchNormalization", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity",
        "LeakyRelu", "Max", "Min", "Mish", "Mul", "PRelu", "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Sub", "Swish",
        "Tanh",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """Whether a layer is packed, the gain that is expected of it, and why."""

    sparse: bool
    gain: float | None
    reason: str


def decide(
    layers: list[Layer], shapes: Mapping[str, Shape], sizes: Mapping[str, tuple[int, int]], told: Mapping[str, str]
) -> dict[str, Decision]:
    """A decision for each layer by name.

    Args:
        layers: all that could be packed.
        shapes: of the values of the graph, on the example.
        sizes: of each table that is looked up: its bytes in the file and when packed.
        told: decisions that stand.
    """
    found = {}
    for layer in layers:
        if layer.kind != "depthwise":
            found[layer.name] = _decide(layer, shapes, sizes, told)
    found |= _decide_depthwise(layers, found, told)
    return {layer.name: found[layer.name] for layer in layers}


def _decide(
    layer: Layer, shapes: Mapping[str, Shape], sizes: Mapping[str, tuple[int, int]], told: Mapping[str, str]
) -> Decision:
    work = layer.work(shapes)
    expected = None if work is None else gain(work)
    if layer.name in told:
        return Decision(told[layer.name] == "sparse", expected, "as told")
    if layer.kind == "embedding":
        before, after = sizes[layer.name]
        smaller = after <= _SMALLER * before
        return Decision(smaller, None, "smaller" if smaller else "not much smaller when packed")
    if layer.nonzeros == layer.parameters:
        return Decision(False, expected, "no zeros")
    if expected is None:
        return Decision(False, None, "what it costs could not be found out")
    return Decision(expected >= MARGIN, expected, "cost model")


def _decide_depthwise(
    layers: list[Layer], found: Mapping[str, Decision], told: Mapping[str, str]
) -> dict[str, Decision]:
    """Depthwise convolutions are packed between packed layers.

    They have few weights to save, but there their batch norm and activation come for free, and ONNX Runtime need not
    change the layout of the images for one of its own convolutions and back again.
    """
    by_node = {layer.node: layer for layer in layers}
    depthwise = [layer for layer in layers if layer.kind == "depthwise"]
    packed = {name for name, decision in found.items() if decision.sparse}
    packed |= {layer.name for layer in depthwise if told.get(layer.name) != "dense"}
    # Each that falls out may take its neighbours along.
    shrunk = True
    while shrunk:
        shrunk = False
        for layer in depthwise:
            if layer.name not in packed or layer.name in told:
                continue
            around = [*_nearest(layer, by_node, -1), *_nearest(layer, by_node, 1)]
            if not around or not all(other.name in packed for other in around):
                packed.discard(layer.name)
                shrunk = True
    decisions = {}
    for layer in depthwise:
        sparse = layer.name in packed
        reason = "between packed layers" if sparse else "not between packed layers"
        decisions[layer.name] = Decision(sparse, None, "as told" if layer.name in told else reason)
    return decisions


def _nearest(layer: Layer, by_node: Mapping[ir.Node, Layer], way: int) -> list[Layer]:
    """The layers before (-1) or after (1) `layer`, with only elementwise nodes between."""
    found, seen = [], set()
    waiting: list[ir.Node | None]
    waiting = [layer.x.producer()] if way < 0 else list(layer.node.outputs[0].consumers())
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in by_node:
            found.append(by_node[node])
        elif node.op_type in _ELEMENTWISE and way < 0:
            waiting += [value.producer() for value in node.inputs if value is not None]
        elif node.op_type in _ELEMENTWISE:
            waiting += node.outputs[0].consumers()
    return found


def read_choices(choices: Mapping[str, str] | str | os.PathLike[str] | None) -> Mapping[str, str]:
    """Decisions by name, from a mapping or a JSON file.

    Raises:
        UsageError: the file cannot be read, or a decision is neither ``"sparse"`` nor ``"dense"``.
    """
    if choices is None:
        return {}
    told = choices
    if not isinstance(told, Mapping):
        try:
            told = json.loads(Path(told).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as problem:
            raise UsageError(f"The choices in {os.fspath(told)} cannot be read: {first_line(problem)}.") from None
    if not isinstance(told, Mapping) or any(choice not in ("sparse", "dense") for choice in told.values()):
        raise UsageError("The choices are not understood; accepted is 'sparse' or 'dense' for each layer by name.")
    return told


def check_choices(told: Mapping[str, str], layers: list[Layer | Left]) -> None:
    """Whether every decision is for a layer that there is, and can be followed.

    Raises:
        UsageError: it is not.
    """
    known = {layer.name: layer for layer in layers}
    for name, choice in told.items():
        if name not in known:
            raise unknown_name("layer", name, known)
        layer = known[name]
        if choice == "sparse" and isinstance(layer, Left):
            raise UsageError(f"The choices pack {name}, which cannot be packed: {layer.reason}.")
