"""Which layers are packed, by the clock: the whole model is timed with and without groups of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from isogrid.runtime.packing.choosing import Decision
from isogrid.runtime.packing.layer import Layer
from isogrid.runtime.timing import Candidate, race, ratio

_ROUNDS = 15
_SECONDS = 1.0
_MARGIN = 1.02
"""A change must win by this much, or the smaller number of packed layers stays."""

Make = Callable[[frozenset[str]], Callable[[], Any]]
"""From the names of packed layers to a function that runs the model once."""


def tune(
    layers: Iterable[Layer], decisions: Mapping[str, Decision], make: Make, told: Mapping[str, str]
) -> tuple[dict[str, Decision], str]:
    """Better decisions than those that the cost model made, and what was measured, in a sentence.

    Layers of one kind and shape are packed together or not at all.  Begins with the cost model's choice; each group in
    turn is taken in or out, and stays so if the whole model is faster.  If it is not faster in the end than with no
    packed layer, none is packed.

    Args:
        layers: all that could be packed.
        decisions: the cost model's.
        make: makes the model that is timed.
        told: decisions that stand.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for layer in layers:
        if layer.name not in told and layer.kind != "embedding" and layer.nonzeros < layer.parameters:
            groups.setdefault((layer.kind, layer.shape), []).append(layer.name)
    best = frozenset(name for name, decision in decisions.items() if decision.sparse)
    dense = make(frozenset())
    running = make(best) if best else dense
    for names in groups.values():
        other = best - set(names) if best >= set(names) else best | set(names)
        if not other:
            continue
        candidate = make(other)
        faster = _faster(running, candidate)
        if faster > _MARGIN or (len(other) < len(best) and faster * _MARGIN > 1):
            best, running = other, candidate
    if best:
        faster = _faster(dense, running)
        note = f"Measured: {faster:.2f} times as fast as the original."
        if faster < _MARGIN:
            best = frozenset(name for name in best if told.get(name) == "sparse")
            note = f"Measured: packed it was {faster:.2f} times as fast as the original, so its layers stay dense."
    else:
        note = "Measured: no group of layers was faster when packed."
    measured = {name for names in groups.values() for name in names}
    return {
        name: replace(decision, sparse=name in best, reason="measured" if name in measured else decision.reason)
        for name, decision in decisions.items()
    }, note


def _faster(first: Callable[[], Any], second: Callable[[], Any]) -> float:
    """How many times faster `second` is."""
    entrants = {"first": Candidate(first), "second": Candidate(second)}
    found = race(entrants, seconds=_SECONDS, least_rounds=_ROUNDS, most_rounds=_ROUNDS)
    return ratio(found["first"], found["second"]).median
