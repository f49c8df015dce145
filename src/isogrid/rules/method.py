"""What a method that makes zeros is in every framework."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from isogrid.errors import UsageError
from isogrid.rules.options import option_value

Gradients = Literal["none", "active", "dense"]
"""Which gradients a method looks at: none, those of active weights, or those at pruned places too."""


class Usage(enum.Enum):
    """How the main job reaches a sparsity with a method."""

    CLIMB = "climb"
    """One run passes through rising sparsities, each rung starting from the rung below."""
    RESTART = "restart"
    """Every sparsity is trained from the initial weights."""
    AFTER = "after"
    """The trained dense weights are pruned at once; no training belongs to the method."""


@dataclass(frozen=True)
class AnyMethod:
    """A frozen set of options.  Schedules and scores among them may be given by name."""

    usage: ClassVar[Usage] = Usage.CLIMB

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            given = f"{type(self).__name__} got {field.name}={value!r}"
            object.__setattr__(self, field.name, option_value(given, value, str(field.type), exact=False))

    @classmethod
    def has_sparsity(cls) -> bool:
        """Whether a sparsity is among the options, so that the method can be aimed (`at`) and used by the main job."""
        return any(field.name == "sparsity" for field in dataclasses.fields(cls))

    def at(self, sparsity: float) -> Self:
        """The same method aimed at another sparsity."""
        if not self.has_sparsity():
            raise UsageError(
                f"{type(self).__name__} cannot be aimed at a sparsity of {sparsity:g}, for it has none as an option; "
                "accepted is a method that has, such as Gradual."
            )
        changed: dict[str, Any] = {"sparsity": sparsity}
        return dataclasses.replace(self, **changed)

    def with_floor(self, limit: float, *, higher_is_better: bool) -> Self:
        """The same method told which metric must hold; the same object where the method does not care."""
        return self

    def observe(self, state: Any, metric: float) -> None:
        """Called with each validation metric that the training measures."""

    def telemetry(self, state: Any) -> dict[str, float]:
        """What a log of the training should show of the method, by name."""
        return {"sparsity": state.sparsity, "mask_sparsity": state.mask_sparsity}
