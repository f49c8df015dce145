"""Groups: units that lie across the same axes of the same parameters, such as the channels of one convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isogrid.structure.coupling import SILENT
from isogrid.structure.labels import Site
from isogrid.structure.tracing import Trace


@dataclass(frozen=True)
class Group:
    """Units of one kind, any of which may be removed.

    Attributes:
        name: the first layer that puts them out, in the model's order.
        kind: ``channels`` (of a convolution), ``heads`` (of attention) or ``units`` (of a matrix).
        units: in the order of that layer's outputs.
        width: how many of its outputs a unit has.
        sites: the axes that the units lie across.
    """

    name: str
    kind: str
    units: tuple[int, ...]
    width: int
    sites: tuple[Site, ...]


@dataclass(frozen=True)
class Kept:
    """Units that cannot be removed.

    Attributes:
        name: of the layer that puts them out.
        units: their number.
        reason: why not.
    """

    name: str
    units: int
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.units}): {self.reason}"


def find_groups(trace: Trace) -> tuple[list[Group], list[Kept]]:
    """What may be removed from a model, and what may not."""
    units = trace.coupling.units
    heads = {unit for labels, _ in trace.coupling.heads for unit in units.find(labels).unique().tolist()}
    counts: dict[int, list[tuple[Site, int]]] = {}
    for site, labels in trace.sites.items():
        for unit, count in zip(*(part.tolist() for part in units.find(labels).unique(return_counts=True)), strict=True):
            counts.setdefault(unit, []).append((site, count))
    alike: dict[tuple[tuple[Site, int], ...], list[int]] = {}
    kept: dict[tuple[str, str], int] = {}
    frozen = units.frozen(torch.arange(len(units)))
    for unit, lies in counts.items():
        parameters = [site for site, _ in lies if site[0] in trace.parameters]
        if bool(frozen[unit]) or not parameters:
            reason = units.reason(unit) if bool(frozen[unit]) else SILENT
            # Of tables of numbers and of a norm's own parameters nobody expects that they shrink by themselves.
            if reason != SILENT and any(trace.tensors[name].dim() > 1 for name, _ in parameters):
                at = (_name(trace, [site for site, _ in lies]), reason)
                kept[at] = kept.get(at, 0) + 1
        else:
            alike.setdefault(tuple(lies), []).append(unit)
    groups: list[Group] = []
    names: dict[str, int] = {}
    for signature, members in alike.items():
        sites = tuple(site for site, _ in signature)
        first = _first(trace, sites)
        name = _name(trace, sites)
        names[name] = names.get(name, 0) + 1
        groups.append(
            Group(
                name=name if names[name] == 1 else f"{name} #{names[name]}",
                kind=_kind(trace, first, members[0] in heads),
                units=_ordered(units.find(trace.sites[first]), members),
                width=dict(signature)[first],
                sites=sites,
            )
        )
    return groups, [Kept(name, count, reason) for (name, reason), count in kept.items()]


def _first(trace: Trace, sites: Sequence[Site]) -> Site:
    """The axis that the units are put out along."""
    out = [site for site in sites if site[0] in trace.parameters and site not in trace.coupling.consumed]
    return ([site for site in out if site in trace.coupling.produced] or out or list(sites))[0]


def _name(trace: Trace, sites: Sequence[Site]) -> str:
    first = _first(trace, sites)
    module, _, own = first[0].rpartition(".")
    name = module if module and own == "weight" else first[0]
    return f"inputs of {name}" if first in trace.coupling.consumed else name


def _kind(trace: Trace, first: Site, heads: bool) -> str:
    return "heads" if heads else "channels" if trace.tensors[first[0]].dim() > 2 else "units"


def _ordered(labels: Tensor, members: Sequence[int]) -> tuple[int, ...]:
    wanted = set(members)
    return tuple(dict.fromkeys(unit for unit in labels.tolist() if unit in wanted))
