"""Recurrent layers that an exporter wrote as a Loop: Keras's GRU by way of tf2onnx, above all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from isogrid.runtime.packing.constants import Constants, evaluate_node

Values = dict[ir.Value, NDArray[np.generic]]

_SAME = 1e-5
"""By how much one step may differ from a GRU's on numbers of the size of one."""
_COUNTING = frozenset({"Add", "And", "Cast", "Identity", "Less", "Slice", "Squeeze"})
_LONGEST = 1 << 16
"""Steps up to which it is tried whether the loop goes through all of them."""


class _Other(Exception):  # noqa: N818 - it is caught here
    """The loop is something else."""


def write_gru(model: ir.Model) -> None:
    """Let loops see weights where they are stored, and put a GRU in the place of each that computes one; in place.

    What a loop computes is not read off its nodes but tried on numbers: one step of it beside one of a GRU.
    """
    loops = [node for node in model.graph.all_nodes() if node.op_type == "Loop" and node.domain == ""]
    for loop in loops:
        _name_invariants(loop)
    for loop in loops:
        if loop.graph is model.graph:
            constants = Constants(model)
            try:
                found = _look(loop, constants)
            except _Other:
                continue
            _replace(loop, found, model)
            # The length of what it gives is known now: another loop may go over that.
            common.ShapeInferencePass(strict_mode=False)(model)


def _name_invariants(loop: ir.Node) -> None:
    """Use what never changes directly, where it is handed from step to step."""
    body = loop.attributes["body"].as_graph()
    for given, inside, after in zip(loop.inputs[2:], body.inputs[2:], body.outputs[1:], strict=False):
        if given is not None and after is inside:
            for node, index in list(inside.uses()):
                node.replace_input_with(index, given)


@dataclass(frozen=True)
class _Gru:
    sequence: ir.Value
    first: ir.Value
    weights: tuple[ir.Value, ir.Value]
    bias: NDArray[np.float32]
    last: int
    every: tuple[int, ...]


def _look(loop: ir.Node, constants: Constants) -> _Gru:
    body = loop.attributes["body"].as_graph()
    states = list(zip(loop.inputs[2:], body.inputs[2:], body.outputs[1:], strict=False))
    moving = [(number, *state) for number, state in enumerate(states) if state[1] is not state[2]]
    if len(moving) != 2:
        raise _Other
    moving.sort(key=lambda state: state[2].dtype == ir.DataType.FLOAT)
    (count_at, count_from, count, count_after), (last, first, state, state_after) = moving
    if first is None or state.dtype != ir.DataType.FLOAT or constants.scalar(count_from) != 0:
        raise _Other
    step = [
        node for node, _ in count.uses()
        if node.op_type == "Gather" and node.inputs[1] is count and _integer(node, "axis", 0) == 0
    ]  # fmt: skip
    if len(step) != 1:
        raise _Other
    sequence, x = step[0].inputs[0], step[0].outputs[0]
    if sequence is None or sequence.shape is None or len(sequence.shape) != 3:
        raise _Other
    if constants.is_constant(sequence) or (sequence.producer() or loop).graph is not loop.graph:
        raise _Other
    _check_steps(loop, sequence, count, count_after, constants)
    wide, bias_wide = _product(x, constants)
    tall, bias_tall = _product(state, constants)
    bias = np.concatenate([bias_wide, bias_tall])[None]
    _try_step(x, state, state_after, (wide, tall), bias, constants)
    scans = body.outputs[1 + len(states) :]
    every = tuple(len(states) + number for number, value in enumerate(scans) if _same_value(value, state_after))
    for number, value in enumerate(loop.outputs):
        if (value.uses() or value.is_graph_output()) and number not in (last, *every):
            raise _Other
    if count_at == last:
        raise _Other
    return _Gru(sequence, first, (wide, tall), bias, last, every)


def _check_steps(
    loop: ir.Node, sequence: ir.Value, count: ir.Value, count_after: ir.Value, constants: Constants
) -> None:
    """Whether the body runs once for each step of the sequence, from the first on."""
    body = loop.attributes["body"].as_graph()
    assert sequence.shape is not None
    length = sequence.shape[0]
    if count.dtype is None or loop.inputs[0] is None or (isinstance(length, int) and not 1 <= length <= _LONGEST):
        raise _Other
    alike = [sequence]
    while (before := alike[-1].producer()) is not None and before.op_type == "ReverseSequence":
        assert before.inputs[0] is not None
        alike.append(before.inputs[0])
    shapes = [node for value in alike for node, _ in value.uses() if node.op_type == "Shape" and not node.attributes]
    # These operators make no more than a sum of a length, so that a few of them tell.
    for steps in (length,) if isinstance(length, int) else (1, 2, 3, _LONGEST):
        known: Values = {node.outputs[0]: np.array([steps, 1, 1]) for node in shapes}
        for value, wanted in ((loop.inputs[0], steps), (loop.inputs[1], 1)):
            if value is not None and not np.array_equal(
                _evaluate(value, known, constants, _COUNTING).reshape(-1), [wanted]
            ):
                raise _Other
        numbers = np.arange(steps)
        known[body.inputs[0]] = numbers.astype(np.int64)
        known[count] = numbers.astype(count.dtype.numpy())
        if not np.array_equal(_evaluate(count_after, known, constants, _COUNTING), numbers + 1):
            raise _Other
        goes = np.broadcast_to(_evaluate(body.outputs[0], known, constants, _COUNTING), numbers.shape)
        if not np.all(goes[:-1]):
            raise _Other


def _product(x: ir.Value, constants: Constants) -> tuple[ir.Value, NDArray[np.float32]]:
    """The matrix that a value is multiplied by, and the bias that is added."""
    products = [node for node, index in x.uses() if node.op_type == "MatMul" and index == 0]
    if len(products) != 1:
        raise _Other
    weight = products[0].inputs[1]
    array = constants.array(weight)
    if weight is None or array is None or array.dtype != np.float32 or array.ndim != 2:
        raise _Other
    bias = np.zeros(array.shape[1], np.float32)
    result = products[0].outputs[0]
    for node, index in result.uses():
        addend = constants.array(node.inputs[1 - index]) if node.op_type == "Add" else None
        if addend is not None and addend.dtype == np.float32 and addend.size == bias.size:
            bias = np.ascontiguousarray(addend.reshape(-1))
    return weight, bias


def _try_step(
    x: ir.Value, state: ir.Value, after: ir.Value, weights: tuple[ir.Value, ir.Value], bias: NDArray[np.float32],
    constants: Constants,
) -> None:  # fmt: skip
    """Whether a step of the loop is one of a GRU."""
    wide, tall = (np.asarray(constants.array(weight)) for weight in weights)
    units = tall.shape[0]
    if wide.shape[1] != 3 * units or tall.shape[1] != 3 * units:
        raise _Other
    rng = np.random.default_rng(0)
    for size in (0.1, 1.0, 3.0):
        inputs, before = (
            (size * rng.standard_normal((4, count))).astype(np.float32) for count in (wide.shape[0], units)
        )
        with np.errstate(all="ignore"):
            given = inputs @ wide + bias[0, : 3 * units]
            kept = before @ tall + bias[0, 3 * units :]
            update, reset = (
                1 / (1 + np.exp(-(given[:, part] + kept[:, part])))
                for part in (slice(0, units), slice(units, 2 * units))
            )
            new = np.tanh(given[:, 2 * units :] + reset * kept[:, 2 * units :])
            expected = update * before + (1 - update) * new
        found = _evaluate(after, {x: inputs, state: before}, constants)
        if found.shape != expected.shape or not np.all(np.abs(found - expected) <= _SAME * max(1.0, size)):
            raise _Other


def _evaluate(
    value: ir.Value, known: Values, constants: Constants, operators: frozenset[str] | None = None
) -> NDArray[np.generic]:
    """A value of the body from those that are known and constants."""
    known = dict(known)
    waiting = [value]
    while waiting:
        wanted = waiting[-1]
        if wanted not in known:
            node = wanted.producer()
            array = constants.array(wanted)
            if array is not None:
                known[wanted] = array
            elif node is None or node.domain != "" or (operators is not None and node.op_type not in operators):
                raise _Other
            elif missing := [given for given in node.inputs if given is not None and given not in known]:
                waiting += missing
                continue
            else:
                try:
                    arrays = [None if given is None else known[given] for given in node.inputs]
                    with np.errstate(all="ignore"):
                        known[wanted] = evaluate_node(node, wanted, arrays, constants.opset)
                except Exception:  # an operator that the reference cannot run on these
                    raise _Other from None
        waiting.pop()
    return known[value]


def _same_value(one: ir.Value | None, other: ir.Value | None) -> bool:
    return _behind_identities(one) is _behind_identities(other)


def _behind_identities(value: ir.Value | None) -> ir.Value | None:
    while value is not None and (node := value.producer()) is not None and node.op_type == "Identity":
        value = node.inputs[0]
    return value


def _replace(loop: ir.Node, found: _Gru, model: ir.Model) -> None:
    """The weights stay where they are, behind a transposition."""
    name = loop.name or loop.outputs[0].name or "loop"

    def constant(suffix: str, array: NDArray[np.generic]) -> ir.Value:
        value = ir.Value(
            name=f"{name}.gru.{suffix}", shape=ir.Shape(array.shape), const_value=ir.Tensor(array),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        )  # fmt: skip
        model.graph.register_initializer(value)
        return value

    def add(operator: str, inputs: list[ir.Value], suffix: str, **attributes: object) -> list[ir.Value]:
        node = ir.node(operator, inputs, attributes, num_outputs=2 if operator == "GRU" else 1)  # type: ignore[arg-type]
        node.name = f"{name}.gru.{suffix}"
        for number, value in enumerate(node.outputs):
            value.name = f"{node.name}.{number}"
        model.graph.insert_before(loop, node)
        return list(node.outputs)

    axes = [constant(f"axis{axis}", np.array([axis], np.int64)) for axis in (0, 1)]
    weights = []
    for weight, letter in zip(found.weights, "wr", strict=True):
        (turned,) = add("Transpose", [weight], f"{letter}.turned", perm=[1, 0])
        weights += add("Unsqueeze", [turned, axes[0]], letter)
    bias = constant("b", found.bias) if np.any(found.bias) else None
    (first,) = add("Unsqueeze", [found.first, axes[0]], "first")
    units = found.bias.shape[1] // 6
    inputs = [found.sequence, *weights, bias, None, first]
    every, last = add("GRU", inputs, "layer", hidden_size=units, linear_before_reset=1)  # type: ignore[arg-type]
    for number in (found.last, *found.every):
        old = loop.outputs[number]
        if old.uses() or old.is_graph_output():
            source, axis = (last, axes[0]) if number == found.last else (every, axes[1])
            (new,) = add("Squeeze", [source, axis], f"out{number}")
            new.type = old.type
            _take_over(old, new, model.graph)
    # Else what is inside would go on using the weights.
    for node in loop.attributes["body"].as_graph().all_nodes():
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
    model.graph.remove(loop, safe=True)


def _take_over(old: ir.Value, new: ir.Value, graph: ir.Graph) -> None:
    if old.is_graph_output():
        new.name, old.name = old.name, f"{old.name}.loop"
        graph.outputs[[value is old for value in graph.outputs].index(True)] = new
    old.replace_all_uses_with(new)


def _integer(node: ir.Node, name: str, default: int) -> int:
    return int(node.attributes[name].as_int()) if name in node.attributes else default
