"""The base of every method that makes zeros, and the table of their names."""

from __future__ import annotations

import dataclasses
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from isogrid.errors import UsageError
from isogrid.names import canonical, unknown_name
from isogrid.patterns import parse_pattern
from isogrid.rules.method import AnyMethod, Gradients
from isogrid.rules.options import option_value
from isogrid.sparsify.state import SparseState


@dataclass(frozen=True)
class Method(AnyMethod, ABC):
    """A way of making zeros: a frozen set of options plus what to do at each moment of a training step.

    All that changes during training lives in the ``SparseState`` that each hook receives, never in the method: one
    method object can serve many models, and a state can be saved and resumed.

    Schedules and scores among the options may be given by name.
    """

    @property
    def final_sparsity(self) -> float | None:
        """The sparsity that the method promises, or at most allows, at the end; None where it promises none."""
        return getattr(self, "sparsity", None)

    @property
    def needs_data(self) -> bool:
        """Whether ``begin`` runs the model on data, which ``state.calibration`` must then hold."""
        return False

    def check(self, state: SparseState) -> None:
        """Raise what does not fit these layers or this optimiser.

        Called before `begin`, and by the main job before anything is trained.
        """

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
    registered = _METHODS.get(canonical(text))
    if registered is None:
        raise unknown_name("method", text, sorted(_METHODS))
    own = {field.name: field.type for field in dataclasses.fields(registered.cls)}
    chosen = dict(registered.implied)
    inner = {
        field.name: (name, field.type)
        for name, value in registered.implied.items()
        if dataclasses.is_dataclass(value) and name not in options
        for field in dataclasses.fields(value)
    }
    for option, value in options.items():
        arrived = f"Option {option} of method {text!r} got {value!r}"
        if option in own:
            chosen[option] = option_value(arrived, value, str(own[option]))
        elif option in inner:
            name, kind = inner[option]
            chosen[name] = dataclasses.replace(chosen[name], **{option: option_value(arrived, value, str(kind))})
        elif own or inner:
            raise unknown_name(f"{text} option", option, sorted({*own, *inner}))
        else:
            raise UsageError(f"Method {text!r} got option {option!r}; it has no options.")
    return registered.cls(**chosen)


def parse_climbing(text: str, **options: Any) -> Method:
    """As `parse_method`, for a caller that sets the sparsity later: 0.5 stands in where the method needs one.

    That is where neither the options nor their pattern say it.

    >>> import isogrid.sparsify
    >>> parse_climbing("gradual").final_sparsity, parse_climbing("gradual", sparsity=0.9).final_sparsity
    (0.5, 0.9)
    """
    registered = _METHODS.get(canonical(text))
    implied = parse_pattern(str(options.get("pattern", "unstructured"))).implied_sparsity
    if registered is not None and registered.cls.has_sparsity() and implied is None:
        options.setdefault("sparsity", 0.5)
    return parse_method(text, **options)
