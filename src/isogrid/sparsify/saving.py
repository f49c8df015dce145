"""A sparsifier's state as tensors and plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isogrid.errors import SparsifierError, TargetError
from isogrid.sparsify.state import SparseState

_VERSION = 1
_KEYS = frozenset({"method", "penalty", "step", "total_steps", "seed", "numbers", "masks", "buffers"})


def to_saved(state: SparseState, method: str, penalty: str) -> dict[str, Any]:
    """Everything that a bit-exact resumption needs, of a training with that method and penalty (their ``repr``)."""
    return {
        "version": _VERSION,
        "method": method,
        "penalty": penalty,
        "step": state.step,
        "total_steps": state.total_steps,
        "seed": state.seed,
        "numbers": dict(state.numbers),
        "masks": {layer.name: layer.mask.clone() for layer in state.layers},
        "buffers": {layer.name: {k: v.clone() for k, v in layer.buffers.items()} for layer in state.layers},
        "tensors": {name: value.clone() for name, value in state.tensors.items()},
    }


def from_saved(state: SparseState, saved: Mapping[str, Any], method: str, penalty: str) -> None:
    """Fill `state` from what `to_saved` gave.

    Raises:
        SparsifierError: it is of another version, method, penalty, seed or number of steps.
        TargetError: it is of other targets.
    """
    if not isinstance(saved, Mapping):
        raise SparsifierError(f"The sparsifier's state is of type {type(saved).__name__}; accepted is a state_dict().")
    if saved.get("version") != _VERSION:
        raise SparsifierError(
            f"The sparsifier's state has version {saved.get('version')!r}; this release reads version {_VERSION}."
        )
    if lacking := sorted(_KEYS - saved.keys()):
        raise SparsifierError(f"The saved state lacks {', '.join(lacking)}; accepted is a whole state_dict().")
    for key, mine in (
        ("method", method),
        ("penalty", penalty),
        ("total_steps", state.total_steps),
        ("seed", state.seed),
    ):
        if saved[key] != mine:
            raise SparsifierError(f"The saved state has {key}={saved[key]}, and this sparsifier has {key}={mine}.")
    masks = state.fit_masks(saved["masks"])
    if strange := sorted(set(saved["buffers"]) ^ set(masks)):
        raise TargetError(f"The saved state's buffers do not belong to its masks: {strange[0]} is in one of them only.")
    for layer in state.layers:
        # In place of all that is there: a buffer that does not exist yet at the saved step must not be left over.
        layer.buffers = {
            name: value.to(layer.mask.device, copy=True) for name, value in saved["buffers"][layer.name].items()
        }
    state.tensors = {name: value.clone() for name, value in saved.get("tensors", {}).items()}
    state.numbers = dict(saved["numbers"])
    state.step = int(saved["step"])
    state.set_masks(masks)
