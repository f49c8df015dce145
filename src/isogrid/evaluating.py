"""Running a model once, without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.errors import UnsupportedError, UsageError, first_line


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards each module is in the mode in which it was.

    >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with in_eval_mode(model):
    ...     [part.training for part in model]
    [False, False]
    >>> [part.training for part in model]
    [True, False]
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; afterwards all is as it was."""
    with in_eval_mode(model), torch.no_grad():
        yield


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention and encoder layers as their own modules and products, not as one fused call that hides them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def running_the_example(who: str = "The model") -> Iterator[None]:
    """Around a call with an example that somebody else gave.

    Raises:
        UnsupportedError: it fails.
    """
    try:
        yield
    except Exception as problem:
        raise UnsupportedError(
            f"{who} fails on the example ({first_line(problem)}); accepted is what its forward accepts: a tensor, the "
            "sequence of its positional arguments, or a mapping of its keyword arguments."
        ) from problem


def positional(owner: str, example: Any, *, hint: str = "") -> tuple[Any, ...]:
    """The positional inputs of a call, given as a tensor or as the sequence of them.

    Raises:
        UsageError: it is something else; `owner` says who asked, `hint` what else there is.

    >>> len(positional("export", torch.ones(2, 3))), len(positional("export", [torch.ones(1), None]))
    (1, 2)
    """
    if isinstance(example, Tensor):
        return (example,)
    if not isinstance(example, Sequence) or isinstance(example, str):
        raise UsageError(
            f"{owner} got an example of type {type(example).__name__}; accepted are a tensor or the sequence of the "
            f"positional inputs{hint}."
        )
    return tuple(example)


def call_model(model: nn.Module, example: Tensor | Sequence[Any] | Mapping[str, Any]) -> Any:
    """The model's answer to an example: a tensor, a sequence of arguments, or a mapping of named ones.

    >>> call_model(nn.Identity(), {"input": torch.ones(1)})
    tensor([1.])
    """
    if isinstance(example, Tensor):
        return model(example)
    return model(**example) if isinstance(example, Mapping) else model(*example)
