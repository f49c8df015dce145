"""What `isogrid.shrink` gives back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from isogrid.structure.groups import Kept


@dataclass(frozen=True)
class ShrunkGroup:
    """What happened to one group of units.

    Attributes:
        name: the layer that puts the units out, the first in the model's order.
        kind: ``channels``, ``heads`` or ``units``.
        before, after: how many units there were and are.
        width: outputs of the layer that make one unit (of a head its width, else mostly 1).
        removed: positions of the removed units among the layer's own, from 0.
        parameters: every parameter and buffer that the units lie across, with the axis.
    """

    name: str
    kind: str
    before: int
    after: int
    width: int
    removed: tuple[int, ...]
    parameters: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.before} -> {self.after} {self.kind}"


@dataclass(frozen=True)
class ShrinkReport:
    """Counts before and after, and what was and was not removed.

    Attributes:
        parameters_before, parameters_after: numbers in the model's parameters, shared ones counted once.
        multiply_adds_before, multiply_adds_after: of all matrix products and convolutions for the example, as
            PyTorch's `FlopCounterMode` counts them; 2 floating-point operations each.
        groups: every group whose units may be removed, in the model's order.
        kept: units that may not, with the reason.
        error: the largest difference between the answers of the new model and what they should be, divided by the
            largest of these.
    """

    parameters_before: int
    parameters_after: int
    multiply_adds_before: int
    multiply_adds_after: int
    groups: tuple[ShrunkGroup, ...]
    kept: tuple[Kept, ...]
    error: float

    def __str__(self) -> str:
        lines = [
            f"{self.parameters_before} -> {self.parameters_after} parameters, "
            f"{self.multiply_adds_before} -> {self.multiply_adds_after} multiply-adds"
        ]
        lines += [str(group) for group in self.groups if group.removed]
        if self.kept:
            lines += ["kept:", *(f"  {kept}" for kept in self.kept)]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A smaller model and how it came to be.

    Attributes:
        model: an ordinary module.
        report: see `ShrinkReport`.
    """

    model: nn.Module
    report: ShrinkReport
