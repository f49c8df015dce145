"""Rules of operations that compute: element by element, sums of products, norms, pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isogrid.structure.calls import Call, rule
from isogrid.structure.coupling import SILENT
from isogrid.structure.labels import Labels, Plane, all_along, compact, some, zero_in_all, zero_in_one


@rule(
    "pointwise", "copy", "dropout", "hardswish", "hardsigmoid", "_prelu_kernel", "tril", "triu", "fill",
    "log_sigmoid_forward", "rrelu_with_noise_functional", "bernoulli",
)  # fmt: skip
def pointwise(call: Call) -> list[Labels]:
    """Element by element, with broadcasting."""
    operands = [labels for labels in map(call.labels, call.tensors()) if labels is not None]
    shape = call.shape()
    return call.first(Labels(shape, call.coupling.meet(shape, operands), _pointwise_zero(call, operands)))


def _pointwise_zero(call: Call, operands: Sequence[Labels]) -> Tensor | None:
    zeros = [_lifted(labels.zero, len(call.shape())) for labels in operands]
    name = call.name.removesuffix("_")
    if name == "mul" and len(zeros) == 2:
        return zero_in_one(*zeros)
    if name == "div":
        return zeros[0]
    if name == "masked_fill":
        return zeros[0] if call.args[2] == 0 else None
    known = zero_in_all(zeros) if zeros else None
    return known if known is not None and _keeps_zero(call) else None


def _keeps_zero(call: Call) -> bool:
    """Whether the operation makes zero of zeros: it is asked."""

    def none(value: Any) -> Any:
        return torch.zeros(1, dtype=value.dtype) if isinstance(value, Tensor) else value

    if torch.Tag.nondeterministic_seeded in call.op.tags:
        return False
    try:
        result = call.op(*map(none, call.args), **{name: none(value) for name, value in call.kwargs.items()})
    except (RuntimeError, TypeError, IndexError):
        return False
    return isinstance(result, Tensor) and bool((result == 0).all())


@rule("mm", "bmm", "addmm", "baddbmm", "mv", "linear", "dot", "addmv")
def product(call: Call) -> list[Labels]:
    """Matrix products, with what is added to them."""
    added = call.name.startswith(("add", "badd"))
    operands = call.args[1:3] if added else call.args[:2]
    x, y = (call.coupling.current(call.known(operand)) for operand in operands)
    batch = "abcdefgh"[: len(x.shape) - 1] if call.name == "linear" else "b" if "bmm" in call.name else ""
    if call.name == "linear":
        result = call.coupling.contract(x, batch + "k", y, "ok", batch + "o")
        bias = call.labels(call.argument("bias"))
    else:
        rows = "i" if len(x.shape) > 1 else ""
        columns = "j" if len(y.shape) > 1 else ""
        result = call.coupling.contract(x, batch + rows + "k", y, batch + "k" + columns, batch + rows + columns)
        bias = call.of(0) if added else None
    return [_sum(call, call.shape(), [result, bias])]


@rule("convolution")
def convolution(call: Call) -> list[Labels]:
    """Convolutions of all kinds; channels are axis 1."""
    x, weight, coupling = call.of(0), call.of(1), call.coupling
    transposed, groups = bool(call.argument("transposed")), int(call.argument("groups"))
    sides = range(2, len(weight.shape))
    coupling.freeze(_only(weight, sides), SILENT)
    x = coupling.fix(x, [0, *range(2, len(x.shape))], f"lies along an image's sides in {coupling.place}")
    ins, outs = (0, 1) if transposed else (1, 0)
    incoming, w_in, w_out = _vector(x, 1), _vector(weight, ins), _vector(weight, outs)
    coupling.produced |= {plane.site for plane in w_out.planes if plane.site is not None}
    zero = all_along(weight.zero, sides)
    zero = None if zero is None else zero.reshape(zero.shape[:2])
    if groups == 1:
        matrix = Labels(weight.shape[:2], tuple(_flat(plane) for plane in weight.along([0, 1])), zero)
        result = coupling.contract(incoming, "k", matrix, "ko" if transposed else "ok", "o")
    elif groups == x.shape[1]:
        result = _depthwise(call, incoming, weight, transposed, zero)
    else:
        result = _grouped(call, incoming, w_in, w_out, groups)
    shape = call.shape()
    channels = _sum(call, (shape[1],), [result, call.labels(call.argument("bias"))])
    spread = channels_of(channels, shape)
    return [Labels(shape, spread.planes, spread.zero)]


def _depthwise(call: Call, x: Labels, weight: Labels, transposed: bool, zero: Tensor | None) -> Labels:
    """Each input channel has outputs of its own, and takes them along."""
    count = call.shape()[1]
    times = count // x.shape[0]
    spread = x.map(lambda tensor: tensor.repeat_interleave(times), (count,))
    own = _vector(weight, 0)
    if transposed:
        call.coupling.freeze(_only(weight, [1]), f"are the outputs of each channel of {call.coupling.place}")
        own, zero = own.map(lambda tensor: tensor.repeat_interleave(times), (count,)), None
    planes = call.coupling.meet((count,), [spread, own])
    return Labels((count,), planes, zero_in_one(spread.zero, None if zero is None else zero.reshape(-1)))


def _grouped(call: Call, x: Labels, w_in: Labels, w_out: Labels, groups: int) -> Labels:
    """Groups of channels lose the same places each: then they stay alike."""
    coupling, count = call.coupling, call.shape()[1]
    for plane in x.planes:
        coupling.use(plane)
    for plane in w_in.planes:
        if plane.site is not None:
            coupling.consumed.add(plane.site)
    one = x.shape[0] // groups
    coupling.meet((one,), [_per_group(call, x, one), _per_group(call, w_in, one)])
    result = _per_group(call, w_out, count // groups)
    return Labels((count,), tuple(Plane(plane.ids.repeat(groups)) for plane in result.planes))


def _per_group(call: Call, labels: Labels, size: int) -> Labels:
    """A vector of channels, or of those of one group, as the latter."""
    for plane in labels.planes:
        call.coupling.units.join_along(plane.ids.reshape(-1, size), [0])
    return Labels((size,), tuple(Plane(plane.ids[:size]) for plane in labels.planes))


@rule("embedding")
def embedding(call: Call) -> list[Labels]:
    """Rows chosen by data: all rows stay, columns may go."""
    weight, shape = call.of(0), call.shape()
    call.coupling.freeze(_only(weight, [0]), f"is looked up by data in {call.coupling.place}")
    row = _vector(weight, 1)
    call.coupling.produced |= {plane.site for plane in row.planes if plane.site is not None}
    return [row.map(lambda tensor: tensor.expand(shape), shape, keep_site=False)]


@rule(
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable", "scaled_dot_product_attention",
)  # fmt: skip
def attention(call: Call) -> list[Labels]:
    """softmax(q k' + mask) v, of ``[batch, heads, steps, width]``."""
    q, k, v = (call.of(index) for index in range(3))
    times = q.shape[1] // k.shape[1]
    if times > 1:  # several heads of queries share one of keys and values
        k, v = (
            part.map(lambda t: t.repeat_interleave(times, dim=1), (part.shape[0], q.shape[1], *part.shape[2:]))
            for part in (k, v)
        )
    scores = call.coupling.contract(q, "bhqd", k, "bhkd", "bhqk")
    mask = call.labels(call.argument("attn_mask", call.argument("attn_bias")))
    planes = call.coupling.meet(scores.shape, [scores] if mask is None else [scores, mask])
    return call.first(call.coupling.contract(Labels(scores.shape, planes), "bhqk", v, "bhkd", "bhqd"))


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm",
      "_batch_norm_with_update", "batch_norm")  # fmt: skip
def batch_norm(call: Call) -> list[Labels]:
    """Each channel by itself, over the batch or by running statistics."""
    x, shape = call.of(0), call.shape()
    weight, bias = (call.labels(call.argument(name)) for name in ("weight", "bias"))
    statistics = [call.labels(call.argument(name)) for name in ("running_mean", "running_var")]
    parts = [channels_of(labels, shape) for labels in (weight, bias, *statistics) if labels is not None]
    planes = call.coupling.meet(shape, [x, *parts])
    if not parts:
        call.coupling.sizes += [(call.coupling.place, "num_features", plane.ids.flatten()) for plane in planes]
    constant = zero_in_all([labels.zero for labels in (weight, bias) if labels is not None]) if weight else None
    zero = None if constant is None else channels_of(Labels((shape[1],), (), constant), shape).zero
    return call.first(Labels(shape, planes, zero))


@rule("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(call: Call) -> list[Labels]:
    """A norm over the last axes."""
    x, shape, coupling = call.of(0), call.shape(), call.coupling
    last = range(len(shape) - len(call.argument("normalized_shape")), len(shape))
    parts = [labels for labels in (call.labels(call.argument(name)) for name in ("weight", "bias")) if labels]
    joint = Labels(shape, coupling.meet(shape, [x, *parts]))
    left, ended = coupling.reduce(joint, last)
    for plane in ended:
        coupling.use(plane)
    if not parts:
        _note_size(call, ended, last)
    joint = coupling.current(joint)
    inside = [plane for plane in joint.along(last) if not set(plane.axes) - set(last)]
    zero = zero_in_all([part.zero for part in parts]) if parts else None
    return call.first(Labels(shape, (*left.planes, *inside), _lifted(zero, len(shape))))


@rule("native_group_norm", "group_norm")
def group_norm(call: Call) -> list[Labels]:
    """A norm over each group of channels; each group loses the same places, so that the groups stay alike."""
    x, shape, coupling = call.of(0), call.shape(), call.coupling
    groups = call.argument("group", call.argument("num_groups"))
    parts = [call.labels(call.argument(name)) for name in ("weight", "bias")]
    joint = Labels(shape, coupling.meet(shape, [x, *(channels_of(part, shape) for part in parts if part)]))
    for plane in coupling.current(joint).along([1]):
        if groups < shape[1]:
            coupling.units.join_along(plane.ids.reshape(groups, -1), [0])
            coupling.use(plane)
            coupling.mixing = True
        elif groups == shape[1]:
            coupling.freeze(Labels(shape, (plane,)), f"has a group for each channel in {coupling.place}")
    return call.first(coupling.current(joint))


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax")
def softmax(call: Call) -> list[Labels]:
    """Numbers that depend on all others along an axis."""
    x, shape = call.of(0), call.shape()
    axis = call.argument("dim") % max(1, len(shape))
    left, ended = call.coupling.reduce(x, [axis])
    for plane in ended:
        call.coupling.use(plane)
    current = call.coupling.current(x)
    inside = [plane for plane in current.along([axis]) if plane.axes == (axis,)]
    return [Labels(shape, (*left.planes, *inside))]


_BY_PLACE = {"argmax", "argmin", "cumsum", "sort", "topk", "median", "mode"}


@rule("sum", "mean", "amax", "amin", "var", "std", "var_mean", "std_mean", "logsumexp", "prod", "any", "all", "norm",
      "linalg_vector_norm", "max", "min", "argmax", "argmin", "cumsum", "sort", "topk", "median", "mode")  # fmt: skip
def reduction(call: Call) -> list[Labels]:
    """One number of those along some axes."""
    x, coupling = call.of(0), call.coupling
    count = len(x.shape)
    axes = call.argument("dim")
    listed = list(range(count)) if axes in (None, []) else [axes] if isinstance(axes, int) else list(axes)
    listed = [axis % max(1, count) for axis in listed]
    if call.name in {"max", "min"} and len(call.tensors()) == 2:
        return list(pointwise(call))
    if call.name in _BY_PLACE or (call.name in {"max", "min"} and len(call.outputs) > 1):
        x = coupling.fix(x, listed, f"is counted by place in {coupling.place}")
    result, ended = coupling.reduce(x, listed, mixes=call.name != "sum")
    for plane in ended:
        coupling.use(plane, x.zero if call.name == "sum" else None)
    if len(call.shape()) < count:
        kept = tuple(size for axis, size in enumerate(result.shape) if axis not in listed)

        def without(tensor: Tensor) -> Tensor:
            return tensor.reshape([size for axis, size in enumerate(tensor.shape) if axis not in listed])

        result = Labels(kept, tuple(Plane(without(plane.ids)) for plane in result.planes))
    return [Labels(tuple(output.shape), result.planes) for output in call.outputs]


@rule("max_pool1d", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d",
      "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_max_pool1d",
      "adaptive_max_pool2d", "adaptive_max_pool3d", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
      "replication_pad1d", "replication_pad2d", "replication_pad3d", "upsample_nearest1d", "upsample_nearest2d",
      "upsample_nearest3d", "_upsample_nearest_exact2d", "upsample_linear1d", "upsample_bilinear2d",
      "upsample_bicubic2d", "upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")  # fmt: skip
def over_sides(call: Call) -> list[Labels]:
    """Places of an image in terms of places of the same channel."""
    sides = int(next(letter for letter in call.name if letter.isdigit()))
    return _same_channels(call, range(len(call.shape()) - sides, len(call.shape())))


@rule("constant_pad_nd")
def padded(call: Call) -> list[Labels]:
    """Places added at the ends of the last axes."""
    sizes = call.args[1]
    count = len(call.shape())
    axes = [count - 1 - i // 2 for i, size in enumerate(sizes) if size]
    results = _same_channels(call, axes)
    return results if call.argument("value", 0) == 0 else [result.without_zero() for result in results]


def _note_size(call: Call, ended: Sequence[Plane], last: Sequence[int]) -> None:
    """A norm without parameters keeps the size in the module alone."""
    for plane in ended:
        if len(last) == 1:
            call.coupling.sizes.append((call.coupling.place, "normalized_shape", plane.ids.flatten()))
        else:
            call.coupling.units.freeze(plane.ids, f"is normed over several axes in {call.coupling.place}")


def _same_channels(call: Call, axes: Sequence[int]) -> list[Labels]:
    x = call.coupling.fix(call.of(0), axes, f"lies along an image's sides in {call.coupling.place}")
    zero = all_along(x.zero, axes)
    return [Labels(tuple(output.shape), x.planes, zero) for output in call.outputs]


def channels_of(labels: Labels, shape: Sequence[int]) -> Labels:
    """A vector of channels as a tensor of `shape` that varies along axis 1 only."""

    def place(tensor: Tensor) -> Tensor:
        return tensor.reshape([-1 if axis == 1 else 1 for axis in range(len(shape))])

    return Labels(
        tuple(size if axis == 1 else 1 for axis, size in enumerate(shape)),
        tuple(Plane(place(plane.ids), plane.site) for plane in labels.planes),
        None if labels.zero is None else place(labels.zero),
    )


def _sum(call: Call, shape: Sequence[int], terms: Sequence[Labels | None]) -> Labels:
    listed = [term for term in terms if term is not None]
    zero = zero_in_all([_lifted(term.zero, len(shape)) for term in listed])
    return Labels(tuple(shape), call.coupling.meet(shape, listed), zero)


def _lifted(zero: Tensor | None, axes: int) -> Tensor | None:
    return None if zero is None else zero[(None,) * (axes - zero.dim())]


def _only(labels: Labels, axes: Sequence[int]) -> Labels:
    return Labels(labels.shape, tuple(labels.along(axes)))


def _flat(plane: Plane) -> Plane:
    return Plane(plane.ids.reshape(plane.ids.shape[:2]), plane.site)


def _vector(labels: Labels, axis: int) -> Labels:
    """What of a tensor varies along one axis alone."""
    planes = [plane for plane in labels.planes if plane.axes == (axis,)]
    zero = all_along(labels.zero, [other for other in range(len(labels.shape)) if other != axis])
    return Labels(
        (labels.shape[axis],),
        tuple(Plane(plane.ids.flatten(), plane.site) for plane in planes),
        None if zero is None else some(compact(zero.flatten())),
    )
