"""What operations of every kind have in common: how the labels of their operands meet, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from isogrid.structure.labels import Labels, Plane, Site, Units, all_along, compact, zero_in_one

SILENT = ""
"""The reason for what nobody would expect to shrink, such as the sides of a kernel: no report names it."""


@dataclass(frozen=True, eq=False)
class Rectangle:
    """A tensor that must stay a box: each unit has to be a slab of it, across an axis that is not `fixed`."""

    ids: Tensor
    fixed: tuple[int, ...]
    place: str


@dataclass(frozen=True, eq=False)
class Use:
    """Units that change what an operation puts out.

    Attributes:
        step: number of the operation.
        ids: labels of the units, [n].
        outputs: labels of what is put out, [m], where it is known which unit changes which output; else None.
        changes: boolean [n, m]; None where each unit changes every output.
    """

    step: int
    ids: Tensor
    outputs: Tensor | None = None
    changes: Tensor | None = None


@dataclass(eq=False)
class Coupling:
    """The state of a trace: units, and what operations have asked of them.

    Attributes:
        place: the module whose forward is running, for messages.
        step: number of the operation that is running.
        rectangles: conditions that are settled when all operations are known.
        consumed: axes of parameters over which something was summed: inputs of a layer.
        produced: axes of parameters along which a layer has its outputs.
        uses: units that change what an operation puts out.
        heads: labels that went through attention as heads, with the module where.
        mixing: whether the operation that is running computes something else when units are missing than when they
            are zero (a mean, a norm).
        sizes: attributes of modules that hold a size which no parameter tells: module, attribute, labels of the axis.
    """

    units: Units = field(default_factory=Units)
    place: str = ""
    step: int = 0
    rectangles: list[Rectangle] = field(default_factory=list)
    consumed: set[Site] = field(default_factory=set)
    produced: set[Site] = field(default_factory=set)
    uses: list[Use] = field(default_factory=list)
    heads: list[tuple[Tensor, str]] = field(default_factory=list)
    mixing: bool = False
    sizes: list[tuple[str, str, Tensor]] = field(default_factory=list)

    def current(self, labels: Labels) -> Labels:
        """The same labels by the units of now, which may vary along fewer axes than when they were made."""
        planes = tuple(map(self._compacted, labels.planes))
        return Labels(labels.shape, tuple(plane for plane in planes if plane.axes), labels.zero)

    def freeze(self, labels: Labels, reason: str) -> None:
        """Every unit of a tensor must stay."""
        for plane in labels.planes:
            self.units.freeze(plane.ids, reason)

    def fix(self, labels: Labels, axes: Sequence[int], reason: str) -> Labels:
        """A tensor whose size along `axes` cannot change: units then lie across its other axes, or must stay."""
        planes = []
        for plane in labels.planes:
            held = [axis for axis in axes if axis in plane.axes]
            if not held:
                planes.append(plane)
            elif set(held) == set(plane.axes):
                self.units.freeze(plane.ids, reason)
            else:
                planes.append(self._joined(plane, held))
        return Labels(labels.shape, tuple(plane for plane in planes if plane.axes), labels.zero)

    def meet(self, shape: Sequence[int], operands: Sequence[Labels]) -> tuple[Plane, ...]:
        """The planes of what is computed element by element from `operands`, whose shapes broadcast to `shape`."""
        while True:
            aligned = [_align(self.current(labels), len(shape)) for labels in operands]
            found: list[Plane] = []
            settled = True
            for mine in aligned:
                held = {
                    axis
                    for other in aligned
                    for axis, size in enumerate(other.shape)
                    if other is not mine and size > 1 and not other.along([axis])
                }
                reason = f"meets in {self.place} what cannot shrink"
                for plane in self.fix(mine, sorted(held), reason).planes:
                    found, alike = self._settle(found, plane)
                    settled = settled and alike
            if settled:
                return tuple(plane for plane in found if plane.axes)

    def _settle(self, found: list[Plane], plane: Plane) -> tuple[list[Plane], bool]:
        """Planes that meet along an axis become one; where one varies along more axes, the outermost one decides.

        A head's queries ``[heads, steps, width]`` that meet a table ``[steps, width]`` (a rotary embedding, a norm of
        each head) may lose heads, not width; met by scores ``[heads, steps, steps]`` they lose the same heads.  Also
        told is whether no axis was fixed by that: what other operands have along it must then be looked at again.
        """
        rest, alike = [], True
        for other in found:
            mine, theirs = set(plane.axes), set(other.axes)
            if not mine & theirs:
                rest.append(other)
                continue
            wide, narrow = (plane, other) if mine >= theirs else (other, plane)
            if set(narrow.axes) < set(wide.axes) and min(wide.axes) not in narrow.axes:
                self.units.freeze(narrow.ids, f"is shared by the heads of {self.place}")
                plane, alike = self._joined(wide, narrow.axes), False
            else:
                self.units.join(wide.ids, narrow.ids)
                plane = self._compacted(Plane(wide.ids + 0 * narrow.ids))
        return [*rest, plane], alike

    def reduce(self, labels: Labels, axes: Sequence[int], *, mixes: bool = True) -> tuple[Labels, list[Plane]]:
        """What is left of a tensor of which one number is made along `axes`, which stay with size 1.

        Where the labels vary along other axes too, the units lie across these.  Else the units end here: such planes
        are given back too.
        """
        inside = [axis % max(1, len(labels.shape)) for axis in axes]
        planes, ended = [], []
        for plane in self.current(labels).planes:
            reduced = [axis for axis in plane.axes if axis in inside]
            if not reduced:
                planes.append(plane)
            elif len(reduced) < len(plane.axes):
                planes.append(self._joined(plane, reduced))
            else:
                ended.append(plane)
                self.mixing = self.mixing or mixes
        shape = tuple(1 if axis in inside else size for axis, size in enumerate(labels.shape))
        return Labels(shape, tuple(plane for plane in planes if plane.axes)), ended

    def use(self, plane: Plane, zero: Tensor | None = None) -> None:
        """The units of a plane change what comes out, but for those that are zero at every place."""
        ids = plane.ids
        if zero is not None:
            gone = all_along(zero, [axis for axis in range(zero.dim()) if axis not in plane.axes])
            if gone is not None:
                ids = ids[~gone.expand(ids.shape)]
        self.uses.append(Use(self.step, ids.flatten()))

    def contract(self, x: Labels, x_axes: str, y: Labels, y_axes: str, out_axes: str) -> Labels:
        """A sum of products, its axes named by letters as in ``einsum``."""
        x, y = self.current(x), self.current(y)
        sizes = dict(zip(x_axes + y_axes, x.shape + y.shape, strict=True))
        summed = "".join(letter for letter in x_axes if letter in y_axes and letter not in out_axes)
        joint = out_axes + summed
        shape = tuple(sizes[letter] for letter in joint)
        left, right = _spread(x, x_axes, joint), _spread(y, y_axes, joint)
        batch = set(x_axes) & set(y_axes) & set(out_axes)
        for mine, other in ((left, right), (right, left)):
            for plane in mine.planes:
                axes = {joint[axis] for axis in plane.axes}
                if plane.site is not None:
                    (self.consumed if axes <= set(summed) else self.produced).add(plane.site)
                elif any(with_.site is None for with_ in other.along([joint.index(axis) for axis in axes & batch])):
                    # Keys and queries, or scores and values: products that each head makes for itself.
                    self.heads.append((plane.ids.flatten(), self.place))
        # The zeros of rows that only x has are of no use to a column of y: their joint table could be huge.
        zero = zero_in_one(all_along(left.zero, [joint.index(a) for a in x_axes if a not in y_axes]), right.zero)
        product = Labels(shape, self.meet(shape, (left, right)))
        inside = [joint.index(letter) for letter in summed]
        result, ended = self.reduce(product, inside, mixes=False)
        for plane in ended:
            self._use_in_product(plane, result, zero)
        gone = all_along(zero, inside)
        kept = len(out_axes)
        return Labels(
            shape[:kept],
            tuple(Plane(plane.ids.reshape(plane.ids.shape[:kept])) for plane in result.planes),
            None if gone is None else gone.reshape(gone.shape[:kept]),
        )

    def _use_in_product(self, plane: Plane, result: Labels, zero: Tensor | None) -> None:
        """The units of a plane that ends in a sum of products: used by those outputs with which no factor is zero."""
        if len(result.planes) != 1 or len(plane.axes) != 1 or len(result.planes[0].axes) != 1:
            self.use(plane, zero)
            return
        (inner,), (outer,) = plane.axes, result.planes[0].axes
        ids, outputs = plane.ids.flatten(), result.planes[0].ids.flatten()
        zero = all_along(zero, [axis for axis in range(plane.ids.dim()) if axis not in (inner, outer)])
        changes = None
        if zero is not None:
            table = zero.squeeze([axis for axis in range(zero.dim()) if axis not in (inner, outer)])
            changes = ~(table if inner < outer else table.T).expand(len(ids), len(outputs))
        self.uses.append(Use(self.step, ids, outputs, changes))

    def _joined(self, plane: Plane, axes: Sequence[int]) -> Plane:
        self.units.join_along(plane.ids, axes)
        return self._compacted(plane)

    def _compacted(self, plane: Plane) -> Plane:
        """The plane by the units of now.  An axis that has become one unit stays: nobody would follow it further."""
        compacted = Plane(compact(self.units.find(plane.ids)), plane.site)
        if plane.axes and not compacted.axes:
            self.units.freeze(plane.ids, f"goes all together or not at all in {self.place}")
        return compacted


def _align(labels: Labels, axes: int) -> Labels:
    """The same with axes of size 1 in front, as broadcasting adds them."""
    missing = axes - len(labels.shape)
    if not missing:
        return labels
    planes = tuple(Plane(plane.ids[(None,) * missing], plane.site) for plane in labels.planes)
    zero = None if labels.zero is None else labels.zero[(None,) * missing]
    return Labels((1,) * missing + labels.shape, planes, zero)


def _spread(labels: Labels, letters: str, joint: str) -> Labels:
    """A tensor of axes `letters` seen as one of axes `joint`, of size 1 along those that it lacks."""

    def place(tensor: Tensor) -> Tensor:
        ordered = tensor.permute(sorted(range(len(letters)), key=lambda axis: joint.index(letters[axis])))
        sizes = iter(ordered.shape)
        return ordered.reshape([next(sizes) if letter in letters else 1 for letter in joint])

    sizes = dict(zip(letters, labels.shape, strict=True))
    planes = tuple(Plane(place(plane.ids), plane.site) for plane in labels.planes)
    zero = None if labels.zero is None else place(labels.zero)
    return Labels(tuple(sizes.get(letter, 1) for letter in joint), planes, zero)
