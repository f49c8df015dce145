"""The base of every method that makes zeros, and the table of their names."""

from __future__ import annotations

import dataclasses
import enum
import math
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar

from torch import Tensor

from isogrid.errors import UsageError
from isogrid.names import unknown_name
from isogrid.schedules import Schedule, parse_schedule
from isogrid.scores import parse_score
from isogrid.sparsify.state import SparseState

Gradients = Literal["none", "active", "dense"]


class Usage(enum.Enum):
    """How the main job reaches a sparsity with a method."""

    CLIMB = "climb"
    """One run passes through rising sparsities, each rung starting from the rung below."""
    RESTART = "restart"
    """Every sparsity is trained from the initial weights."""
    AFTER = "after"
    """The trained dense weights are pruned at once; no training belongs to the method."""


@dataclass(frozen=True)
class Method(ABC):
    """A way of making zeros: a frozen set of options plus what to do at each moment of a training step.

    All that changes during training lives in the ``SparseState`` that each hook receives, never in the method: one
    method object can serve many models, and a state can be saved and resumed.
    """

    usage: ClassVar[Usage] = Usage.CLIMB

    @property
    def final_sparsity(self) -> float | None:
        """The sparsity that the method promises, or at most allows, at the end; None where it promises none."""
        return getattr(self, "sparsity", None)

    @property
    def needs_data(self) -> bool:
        """Whether ``begin`` runs the model on data, which ``state.calibration`` must then hold."""
        return False

    def at(self, sparsity: float) -> Self:
        """The same method aimed at another sparsity."""
        if "sparsity" not in {field.name for field in dataclasses.fields(self)}:
            raise UsageError(f"{type(self).__name__} cannot be aimed at a sparsity of {sparsity:g}.")
        changed: dict[str, Any] = {"sparsity": sparsity}
        return dataclasses.replace(self, **changed)

    def begin(self, state: SparseState) -> None:
        """Called once, before the first step; masks are all active or adopted."""

    def lr_step(self, state: SparseState) -> int:
        """The step at which the loop's learning-rate schedule should stand: the clock, unless the method rewinds."""
        return state.step

    def gradients(self, state: SparseState) -> Gradients:
        """Which gradients ``layer.gradient`` must hold in the ``before_step`` that comes next.

        ``"dense"`` also gathers those at pruned places, which costs a copy of the gradient.
        """
        return "none"

    def has_loss_term(self, state: SparseState) -> bool:
        """Whether the step that comes next has a penalty, so that a loop which forgets it can be told."""
        return False

    def loss_term(self, state: SparseState) -> Tensor | None:
        """A term for the loss, or None where the method has none at this step."""
        return None

    def before_step(self, state: SparseState) -> None:
        """Called when gradients are final and weights have not moved yet."""

    def after_step(self, state: SparseState) -> None:
        """Called when weights have moved; ``state.step`` already counts this step."""

    def with_floor(self, limit: float, *, higher_is_better: bool) -> Self:
        """The same method told which metric must hold; the same object where the method does not care."""
        return self

    def observe(self, state: SparseState, metric: float) -> None:
        """Called with each validation metric that the loop measures."""

    def telemetry(self, state: SparseState) -> dict[str, float]:
        """What a log of the training should show of the method, by name."""
        return {"sparsity": state.sparsity, "mask_sparsity": state.mask_sparsity}

    def end(self, state: SparseState) -> None:
        """Called once, when training is over, before the zeros are final."""


@dataclass(frozen=True)
class Registered:
    """A name of a method: its class, the options that the name implies, and a line of its own if it has one."""

    cls: type[Method]
    implied: Mapping[str, Any]
    line: str | None = None

    @property
    def summary(self) -> str:
        """The name's own line, or the first sentence of the class's docstring."""
        if self.line is not None:
            return self.line
        return (self.cls.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")


_METHODS: dict[str, Registered] = {}

M = TypeVar("M", bound=type[Method])


def register_method(name: str, /, line: str | None = None, **implied: Any) -> Callable[[M], M]:
    """A class decorator that gives a method a name for ``--method`` and for ``isogrid methods``.

    One class may have several names, each with the options that the name implies, and with a `line` that says what it
    does; without one the first sentence of the class's docstring does.
    """

    def register(cls: M) -> M:
        taken = _METHODS.get(name)
        if taken is not None and taken.cls.__qualname__ != cls.__qualname__:
            raise UsageError(f"The method name {name!r} is taken by {taken.cls.__qualname__}; choose another.")
        _METHODS[name] = Registered(cls, implied, line)
        return cls

    return register


def methods() -> dict[str, Registered]:
    """All registered methods by name, in alphabetical order."""
    return dict(sorted(_METHODS.items()))


def parse_method(text: str, **options: Any) -> Method:
    """The method of that name with those options.

    Schedules and scores may be given by name.  The fields of a value that the name implies are options too: ``lam`` is
    one of ``"l1"``, which implies a penalty.

    Raises:
        UsageError: an unknown name or option, with the nearest accepted ones, or a value of the wrong type.

    >>> import isogrid.sparsify
    >>> parse_method("gradual", sparsity=0.9).final_sparsity
    0.9
    >>> parse_method("l1", lam=0.01).penalty
    L1(lam=0.01)
    """
    if text not in _METHODS:
        raise unknown_name("method", text, sorted(_METHODS))
    registered = _METHODS[text]
    own = {field.name: field.type for field in dataclasses.fields(registered.cls)}
    chosen = dict(registered.implied)
    inner = {
        field.name: (name, field.type)
        for name, value in registered.implied.items()
        if dataclasses.is_dataclass(value) and name not in options
        for field in dataclasses.fields(value)
    }
    for option, value in options.items():
        if option in own:
            chosen[option] = _parsed(text, option, value, str(own[option]))
        elif option in inner:
            name, kind = inner[option]
            chosen[name] = dataclasses.replace(chosen[name], **{option: _parsed(text, option, value, str(kind))})
        else:
            raise unknown_name(f"option of method {text!r}", option, sorted({*own, *inner}))
    return registered.cls(**chosen)


_ADMITS: dict[str, set[type]] = {
    "int": {int}, "float": {float, int}, "bool": {bool}, "str": {str}, "None": {type(None)},
}  # fmt: skip
"""The types that an annotation of a plain field admits."""


def _parsed(method: str, option: str, value: Any, annotation: str) -> Any:
    """An option's value as its field wants it: a schedule or score by name, a plain value of the annotated type."""
    if isinstance(value, str) and annotation in ("Schedule", "Score"):
        return parse_schedule(value) if annotation == "Schedule" else parse_score(value)
    kinds = annotation.split(" | ")
    if all(kind in _ADMITS for kind in kinds) and not any(type(value) in _ADMITS[kind] for kind in kinds):
        raise UsageError(f"Option {option} of method {method!r} got {value!r}; accepted is {' or '.join(kinds)}.")
    return value


def check_sparsity(owner: str, sparsity: object) -> None:
    """Raise ``UsageError`` unless ``sparsity`` is a number from 0 up to, but not including, 1."""
    numeric = isinstance(sparsity, float | int) and not isinstance(sparsity, bool)
    if not numeric or not (math.isfinite(sparsity) and 0 <= sparsity < 1):  # type: ignore[operator,arg-type]
        raise UsageError(f"{owner} got sparsity={sparsity!r}; accepted is a number from 0 up to, not including, 1.")


def check_fraction(owner: str, name: str, value: float) -> None:
    """Raise ``UsageError`` unless ``value`` lies between 0 and 1."""
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise UsageError(f"{owner} got {name}={value!r}; accepted is a number from 0 to 1.")


def check_interval(owner: str, delta_t: int | None) -> None:
    """Refuse anything but a whole number of steps from 1 on, or None.

    Raises:
        UsageError: it is something else.
    """
    if delta_t is not None and (isinstance(delta_t, bool) or not isinstance(delta_t, int) or delta_t < 1):
        raise UsageError(f"{owner} got delta_t={delta_t!r}; accepted is a whole number of steps >= 1, or None.")


def update_interval(delta_t: int | None, total_steps: int) -> int:
    """Steps between two updates of the masks: as given, or a hundredth of the training."""
    return max(1, total_steps // 100) if delta_t is None else delta_t


def update_due(step: int, total_steps: int, delta_t: int | None, schedule: Schedule) -> bool:
    """Whether the masks are updated after that step: at the interval while the ramp rises, and where it closes.

    The first step at or behind the ramp's end always counts, so that the final sparsity is reached exactly, whatever
    the interval.
    """
    closing = min(total_steps, math.ceil(schedule.end * total_steps))
    if step == closing:
        return True
    return step < closing and step % update_interval(delta_t, total_steps) == 0
