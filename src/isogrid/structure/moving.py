"""Rules of operations that move elements: views, slices, concatenations."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor

from isogrid.structure.calls import Call, moved, rule
from isogrid.structure.coupling import Rectangle
from isogrid.structure.labels import Labels, Plane, all_along, compact, some


@rule("alias", "detach", "clone", "lift_fresh", "lift_fresh_copy", "_to_copy")
def same(call: Call) -> list[Labels]:
    """The same elements in the same places."""
    return [call.of(0)]


@rule("permute", "transpose", "t", "unsqueeze", "squeeze", "flip")
def reordered(call: Call) -> list[Labels]:
    """Axes in another order."""
    return moved(call, call.of(0), keep_site=True)


@rule("view", "_unsafe_view", "_reshape_alias")
def viewed(call: Call) -> list[Labels]:
    """Axes cut and merged.  Where the labels of one axis now vary along two, what is removed must fill a slab."""
    if isinstance(call.args[1], torch.dtype):
        call.coupling.freeze(call.of(0), f"is read as {call.args[1]} in {call.coupling.place}")
        return call.plain()
    shape = call.shape()
    # Labels have other strides than the tensor: they may have to be copied where it need not.
    result = call.of(0).map(lambda tensor: tensor.reshape(shape), shape, keep_site=True)
    for plane in result.planes:
        if len(plane.axes) > 1:
            call.coupling.rectangles.append(Rectangle(plane.ids, (), call.coupling.place))
    return [result]


@rule("expand")
def expanded(call: Call) -> list[Labels]:
    """Axes of size 1 that are repeated.  What has no labels (a mask) fits the new size whatever it is: new labels."""
    labels, shape = call.of(0), call.shape()
    if labels.planes:
        return moved(call, labels)
    before = (1,) * (len(shape) - len(labels.shape)) + labels.shape
    axes = [axis for axis, size in enumerate(shape) if size > 1 and before[axis] == 1]
    return [Labels(shape, _new_planes(call, shape, axes))]


@rule("repeat")
def repeated(call: Call) -> list[Labels]:
    """The whole tensor several times: labels repeat."""
    return moved(call, call.of(0))


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor")
def created(call: Call) -> list[Labels]:
    """The same number everywhere: it fits a smaller size, provided that the code asks for it."""
    shape = call.shape()
    zero = None if "zeros" not in call.name else torch.ones((1,) * len(shape), dtype=torch.bool)
    return [Labels(shape, _new_planes(call, shape, range(len(shape))), zero)]


@rule("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")
def created_alike(call: Call) -> list[Labels]:
    """A new tensor of another's size."""
    labels = call.of(0).without_zero()
    zero = None if "zeros" not in call.name else torch.ones((1,) * len(labels.shape), dtype=torch.bool)
    return [Labels(labels.shape, labels.planes, zero)]


@rule("arange", "linspace", "randperm", "eye", "rand", "randn", "randint")
def counted(call: Call) -> list[Labels]:
    """Numbers that depend on the size: nothing can be removed from them."""
    return call.plain()


@rule("select", "unbind", "index_select", "unfold", "roll")
def picked(call: Call) -> list[Labels]:
    """Places along one axis, chosen by number: units cannot lie across it."""
    labels = call.of(0)
    axes = call.argument("dim", call.argument("dims", 0))
    listed = [axes] if isinstance(axes, int) else list(axes)
    held = _hold(call, labels, [axis % len(labels.shape) for axis in listed])
    for index in call.tensors()[1:]:
        call.coupling.freeze(call.known(index), f"chooses places in {call.coupling.place}")
    return moved(call, held)


@rule("index", "_unsafe_index")
def indexed(call: Call) -> list[Labels]:
    """Places chosen by tensors of numbers."""
    labels, indices = call.of(0), call.args[1]
    for index in indices:
        if index is not None:
            call.coupling.freeze(call.known(index), f"chooses places in {call.coupling.place}")
    chosen = [axis for axis, index in enumerate(indices) if index is not None]
    if any(index.dtype == torch.bool for index in indices if index is not None):
        call.coupling.freeze(labels, f"is chosen by a mask in {call.coupling.place}")
        return call.plain()
    return moved(call, _hold(call, labels, chosen))


@rule("slice")
def sliced(call: Call) -> list[Labels]:
    """A part of an axis.  A fraction of it is taken for what the code means by it: a half stays a half."""
    labels, shape = call.of(0), call.shape()
    axis = call.argument("dim", 0) % len(shape)
    start, step = call.argument("start") or 0, call.argument("step", 1)
    whole, part = labels.shape[axis], shape[axis]
    if whole == part and step == 1:
        return [labels]
    start += whole if start < 0 else 0
    parts = whole // gcd(whole, start, part) if step == 1 else None
    return moved(call, _hold(call, labels, [axis], parts=parts))


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes")
def split(call: Call) -> list[Labels]:
    """Parts of an axis; they must lose places in proportion to their sizes."""
    labels = call.of(0)
    axis = call.argument("dim", 0) % len(labels.shape)
    unit = gcd(*(output.shape[axis] for output in call.outputs))
    return moved(call, _hold(call, labels, [axis], parts=labels.shape[axis] // unit if unit else None))


@rule("glu")
def gated(call: Call) -> list[Labels]:
    """One half of an axis times the sigmoid of the other."""
    labels = call.of(0)
    axis = call.argument("dim", -1) % len(labels.shape)
    held = _hold(call, labels, [axis], parts=2)
    half = labels.shape[axis] // 2
    first = held.map(lambda tensor: tensor.narrow(axis, 0, half), call.shape())
    second = held.map(lambda tensor: tensor.narrow(axis, half, half), call.shape())
    return [Labels(call.shape(), call.coupling.meet(call.shape(), (first, second)), first.zero)]


@rule("cat")
def joined(call: Call) -> list[Labels]:
    """Tensors one behind the other along an axis; what has no labels along it must stay."""
    parts = [labels for labels in map(call.labels, call.args[0]) if labels is not None and labels.shape != (0,)]
    return [_concatenate(call, parts, call.argument("dim", 0) % len(call.shape()))]


@rule("stack")
def stacked(call: Call) -> list[Labels]:
    """Tensors one behind the other along a new axis."""
    axis = call.argument("dim", 0) % len(call.shape())
    one = tuple(1 if i == axis else size for i, size in enumerate(call.shape()))
    parts = [
        labels.map(lambda tensor: tensor.unsqueeze(axis), one)
        for labels in map(call.labels, call.args[0])
        if labels is not None
    ]
    return [_concatenate(call, parts, axis)]


@rule("pixel_shuffle", "pixel_unshuffle")
def shuffled(call: Call) -> list[Labels]:
    """Channels to places in a square, or back: the channels of a square go together."""
    (result,) = moved(call, call.of(0))
    spatial = [len(result.shape) - 2, len(result.shape) - 1]
    return [call.coupling.fix(result, spatial, f"lies along an image's sides in {call.coupling.place}")]


def _new_planes(call: Call, shape: Sequence[int], axes: Sequence[int]) -> tuple[Plane, ...]:
    units = call.coupling.units
    return tuple(Plane(_along(units.fresh(shape[axis]), axis, len(shape))) for axis in axes if shape[axis] > 1)


def _along(ids: Tensor, axis: int, axes: int) -> Tensor:
    return ids.reshape([-1 if i == axis else 1 for i in range(axes)])


def _hold(call: Call, labels: Labels, axes: Sequence[int], parts: int | None = None) -> Labels:
    """`labels` that must not lose places along `axes`, unless each of `parts` equal parts loses the same."""
    place = call.coupling.place
    for plane in labels.along(axes):
        if parts is None:
            call.coupling.rectangles.append(Rectangle(plane.ids, tuple(axes), place))
            continue
        (axis,) = axes
        shape = plane.ids.shape
        cut = plane.ids.reshape(*shape[:axis], parts, shape[axis] // parts, *shape[axis + 1 :])
        call.coupling.rectangles.append(Rectangle(cut, (axis,), place))
    return labels


def _concatenate(call: Call, parts: Sequence[Labels], axis: int) -> Labels:
    coupling, shape = call.coupling, call.shape()
    one = tuple(1 if i == axis else size for i, size in enumerate(shape))
    planes = coupling.meet(one, [_without(labels, axis) for labels in parts])
    along = [_along_axis(call, labels, axis) for labels in parts]
    if any(bool((ids >= 0).any()) for ids in along):
        lost = coupling.units.fresh(1)
        coupling.units.freeze(lost, f"is concatenated with what has no channels in {coupling.place}")
        # Labels may vary along other axes too, as those of heads do when halves of their widths change places.
        across = torch.broadcast_shapes(*(ids.narrow(axis, 0, 1).shape for ids in along))
        whole = [ids.expand([ids.shape[axis] if i == axis else size for i, size in enumerate(across)]) for ids in along]
        ids = torch.cat(whole, dim=axis)
        plane = Plane(torch.where(ids < 0, lost, ids))
        if len(plane.axes) > 1:
            coupling.rectangles.append(Rectangle(plane.ids, (), coupling.place))
        planes = (*planes, plane)
    return Labels(shape, planes, _zero_of_parts(parts, axis, len(shape)))


def _along_axis(call: Call, labels: Labels, axis: int) -> Tensor:
    """The labels of one part along the axis of a concatenation, of its full size there; -1 where there are none."""
    planes = labels.along([axis])
    for plane in planes[1:]:
        call.coupling.units.freeze(plane.ids, f"is concatenated in {call.coupling.place}")
    ids = planes[0].ids if planes else torch.full((1,) * len(labels.shape), -1)
    return ids.expand([labels.shape[axis] if i == axis else size for i, size in enumerate(ids.shape)])


def _without(labels: Labels, axis: int) -> Labels:
    """What of a tensor does not depend on `axis`."""
    shape = tuple(1 if i == axis else size for i, size in enumerate(labels.shape))
    return Labels(shape, tuple(plane for plane in labels.planes if axis not in plane.axes))


def _zero_of_parts(parts: Sequence[Labels], axis: int, axes: int) -> Tensor | None:
    """Zeros along the concatenated axis alone: tables over further axes would be as large as the tensor."""
    rows = []
    for labels in parts:
        zero = all_along(labels.zero, [i for i in range(axes) if i != axis])
        none = torch.zeros((1,) * axes, dtype=torch.bool)
        rows.append(
            (none if zero is None else zero).expand([labels.shape[axis] if i == axis else 1 for i in range(axes)])
        )
    return some(compact(torch.cat(rows, dim=axis)))
