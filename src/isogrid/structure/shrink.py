"""`isogrid.shrink`: a model without the units that are dead, or that matter least."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from isogrid.calibration import Forward, Loss
from isogrid.errors import UnsupportedError, UsageError, first_line
from isogrid.evaluating import call_model, running_the_example
from isogrid.masks import unwrap
from isogrid.structure.choosing import choose
from isogrid.structure.cutting import HEAD_COUNTS, HEAD_WIDTHS, cut
from isogrid.structure.groups import Group, Kept, find_groups
from isogrid.structure.masking import masked_answer
from isogrid.structure.options import Names, budget_for, check_options, split_ignored
from isogrid.structure.ranking import score_groups
from isogrid.structure.report import ShrinkReport, Shrunk, ShrunkGroup
from isogrid.structure.tracing import Example, Trace, spelled_out, tensors_in, trace
from isogrid.structure.unit_scores import UnitScore, check_unit_score

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def shrink(
    model: nn.Module,
    example: Example,
    *,
    sparsity: float | Mapping[str, float] | None = None,
    heads: float | None = None,
    score: UnitScore | str = "magnitude",
    allocation: Literal["uniform", "global"] = "uniform",
    minimum: int = 1,
    round_to: int = 1,
    ignore: Names = None,
    data: Iterable[Any] | None = None,
    forward: Forward | None = None,
    loss: Loss | None = None,
    tolerance: float | None = None,
) -> Shrunk:
    """A smaller copy of `model`: whole channels, hidden units and attention heads are removed from its tensors.

    Without `sparsity` only what is *dead* goes: units that change no output whatever the input is, because their own
    weights are zero or all weights that read them are.  The new model then computes what the old one did.  With it the
    units of lowest score go too (structured pruning), and the model wants training afterwards.

    The model is run once on the example, in eval mode, and every operation is followed to find which indices of which
    parameters belong together: through residual additions, concatenations, norms, grouped convolutions, reshapes and
    attention.  What cannot be followed stays whole and is named in the report.  The new model is then run on the
    example and compared with the old one, in which the removed units were blanked out.

    Args:
        model: any module; it is not changed.  Wrappers (``torch.compile``, DDP) are seen through.
        example: a tensor, the sequence of the positional arguments, or a mapping of keyword arguments.
        sparsity: fraction of the units of each group that is removed, in [0, 1); or a mapping of names or regular
            expressions of layers to such fractions, the first that matches a group counts, groups that none matches
            lose dead units only.
        heads: another fraction for attention heads; 0 keeps them.
        score: ``"magnitude"`` (`isogrid.structure.UnitNorm`), ``"taylor"`` (`isogrid.structure.UnitTaylor`, which needs
            `data`), or a score of your own.
        allocation: ``"uniform"`` removes the same fraction of each group; ``"global"`` ranks the units of all groups
            together, by score relative to their group's mean.
        minimum: units that each group keeps at least.
        round_to: keep channels and hidden units in multiples of this (more are kept, not fewer), as processors like 8.
        ignore: names or regular expressions of parameters or modules; groups that touch one of these stay whole.
        data: batches for scores that need gradients: pairs of inputs and labels, or what `forward` and `loss` accept.
        forward: ``forward(model, batch)``; by default ``model(batch[0])`` for a pair, ``model(**batch)`` for a mapping.
        loss: ``loss(answer, batch)``; by default ``answer.loss`` where there is one, else the cross-entropy with
            ``batch[1]``.
        tolerance: how much the outputs may differ, relative to the largest; by default 1e-4 for float32.

    Raises:
        UsageError: an option out of its range, or a score that needs data and got none.
        TargetError: a name in `sparsity` or `ignore` matches nothing.
        UnsupportedError: the model does not run on the example, answers it differently each time, cannot be copied, or
            has no weights to cut (a ScriptModule, the meta device); or the new one differs from what it should compute.
        TrainingError: a score that is not finite.

    Source: coupled groups as in Fang et al. 2023, "DepGraph", arXiv:2301.12900.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> small = shrink(model, torch.ones(2, 4), sparsity=0.5)
    >>> small.model
    Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=3, bias=True)
    )
    >>> print(small.report)
    67 -> 35 parameters, 112 -> 56 multiply-adds
    0: 8 -> 4 units
    kept:
      inputs of 0 (4): meets in 0 what cannot shrink
      2 (3): reaches the model's output
    """
    score = check_unit_score(score)
    check_options(sparsity, heads, allocation, minimum, round_to, tolerance)
    source = _check_model(unwrap(model), example)
    before = _answer(_copied(source), example)
    work = _Work(source, example, before, trace(copy.deepcopy(source), example), tolerance)
    groups, kept = find_groups(work.trace)
    groups, ignored = split_ignored(groups, ignore, source)
    budget = budget_for(groups, sparsity, heads, together=allocation == "global", minimum=minimum, round_to=round_to)
    wanted = [group for group in groups if budget.shares.get(group.name, 0) > 0]
    scores = score_groups(source, work.trace, wanted, score, data, forward, loss)
    dead = {unit for group in groups for unit in group.units if not bool(work.trace.alive[unit])}
    chosen = choose(groups, scores, dead, budget)
    exact = all(set(units) <= dead for units in chosen.values())
    small, error, refused = work.remove(groups, chosen, exact=exact)
    stays = {reason.name for reason in refused}
    done = {name: units for name, units in chosen.items() if name not in stays}
    report = ShrinkReport(
        parameters_before=_size(source),
        parameters_after=_size(small),
        multiply_adds_before=_multiply_adds(source, example),
        multiply_adds_after=_multiply_adds(small, example),
        groups=tuple(_report(group, done.get(group.name, ())) for group in groups if group.name not in stays),
        kept=(*kept, *ignored, *refused),
        error=error,
    )
    return Shrunk(small, report)


@dataclass(frozen=True, eq=False)
class _Work:
    """Cutting and comparing.

    Attributes:
        model: the original.
        before: its answer to the example.
        trace: of it.
        tolerance: see `shrink`.
    """

    model: nn.Module
    example: Example
    before: list[Tensor]
    trace: Trace
    tolerance: float | None

    def remove(
        self, groups: Sequence[Group], chosen: Mapping[str, Sequence[int]], *, exact: bool
    ) -> tuple[nn.Module, float, list[Kept]]:
        """The model without the chosen units, its error, and the groups that had to stay whole after all.

        Raises:
            UnsupportedError: groups can be cut one by one but not together.
        """
        found = self._attempt(chosen, exact=exact)
        if not isinstance(found, str):
            return *found, []
        self._check_repeats()
        refused, possible = [], {}
        for group in groups:
            if group.name in chosen:
                alone = self._attempt({group.name: chosen[group.name]}, exact=exact)
                if isinstance(alone, str):
                    refused.append(Kept(group.name, len(group.units), alone))
                else:
                    possible[group.name] = chosen[group.name]
        found = self._attempt(possible, exact=exact)
        if isinstance(found, str):
            raise UnsupportedError(
                f"Units of {', '.join(possible)} can be cut alone but not together ({found}); leave some out "
                "with ignore=."
            )
        return *found, refused

    def _check_repeats(self) -> None:
        """Raise ``UnsupportedError`` if the model answers differently each time: nothing can be compared then."""
        found = self._compare(_answer(copy.deepcopy(self.model), self.example), self.before)
        if isinstance(found, str):
            raise UnsupportedError(
                "The model answers the same example differently each time, in evaluation mode; accepted is one that "
                "repeats its answer, so leave out what draws random numbers there."
            )

    def _attempt(self, chosen: Mapping[str, Sequence[int]], *, exact: bool) -> tuple[nn.Module, float] | str:
        """The model without the chosen units and its error, or why that cannot be."""
        units = self.trace.coupling.units
        labels = torch.arange(len(units))
        gone = torch.isin(units.find(labels), torch.tensor([u for some in chosen.values() for u in some]))
        if exact or not bool(gone.any()):
            wanted = self.before
        else:
            wanted = masked_answer(copy.deepcopy(self.model), self.example, self.trace, gone)
            dead = gone & ~self.trace.alive
            if bool(dead.any()):
                # What seems dead must change nothing; the other units that go hide whether it does.
                spared = masked_answer(copy.deepcopy(self.model), self.example, self.trace, dead)
                if isinstance(found := self._compare(spared, self.before), str):
                    return found
        problem = ""
        for attributes in _guesses(self.trace, gone):
            small = copy.deepcopy(self.model)
            try:
                cut(small, self.trace, gone, attributes)
                tried = copy.deepcopy(small)  # what a forward leaves behind is not for the caller
                with spelled_out(tried):
                    answer = tensors_in(call_model(tried, self.example))
            except Exception as failure:
                problem = problem or f"the forward fails without some of them: {first_line(failure)}"
                continue
            found = self._compare(answer, wanted)
            if not isinstance(found, str):
                return small, found
            problem = problem or found
        return problem

    def _compare(self, answer: Sequence[Tensor], wanted: Sequence[Tensor]) -> float | str:
        """The error of an answer, or what is wrong with it."""
        if len(answer) != len(wanted):
            return f"without some of them there are {len(answer)} outputs and not {len(wanted)}"
        worst = 0.0
        for got, right in zip(answer, wanted, strict=True):
            if got.shape != right.shape:
                return f"without some of them the output has shape {tuple(got.shape)} and not {tuple(right.shape)}"
            if not right.is_floating_point():
                if not torch.equal(got, right):
                    return f"without some of them an output of {right.dtype} differs"
                continue
            limit = _TOLERANCE.get(right.dtype, 1e-4) if self.tolerance is None else self.tolerance
            largest = float(right.abs().nan_to_num(posinf=0).max()) if right.numel() else 0.0
            difference = torch.where(got == right, 0, got - right).abs().double()
            difference = difference.masked_fill(got.isnan() & right.isnan(), 0)
            error = float(difference.max()) / (largest or 1.0) if right.numel() else 0.0
            if not error <= limit:
                return f"without some of them the outputs are wrong by {error:.1g} of the largest"
            worst = max(worst, error)
        return worst


def _guesses(trace: Trace, gone: Tensor) -> Iterator[tuple[str, ...]]:
    """Which attributes of attention modules to correct: modules that lose heads read none, some or all of them."""
    yield ()
    if any(bool(gone[labels].any()) for labels, _ in trace.coupling.heads):
        yield HEAD_COUNTS
        yield HEAD_COUNTS + HEAD_WIDTHS
        yield HEAD_WIDTHS


def _check_model(model: Any, example: Any) -> nn.Module:
    """Refuse what is no model whose parameters can be cut, and what is no example."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedError(
            f"shrink got {type(model).__name__}; accepted is a torch.nn.Module that is not scripted."
        )
    if any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        raise UnsupportedError(
            "shrink got a model on the meta device, without numbers; accepted is one that holds them."
        )
    if not isinstance(example, Tensor | Sequence | Mapping) or isinstance(example, str):
        raise UsageError(
            f"shrink got {type(example).__name__} for an example; accepted are a tensor, the sequence of the "
            "positional arguments, and a mapping of keyword arguments."
        )
    return model


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as problem:
        raise UnsupportedError(
            f"The model cannot be copied ({first_line(problem)}); accepted is one that copy.deepcopy takes, so fold "
            "what torch.nn.utils.prune or weight_norm left in it."
        ) from problem


def _answer(model: nn.Module, example: Example) -> list[Tensor]:
    """The tensors that a model answers with.

    Raises:
        UnsupportedError: it fails.
    """
    with running_the_example(), spelled_out(model):
        return tensors_in(call_model(model, example))


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _multiply_adds(model: nn.Module, example: Example) -> int:
    # The counter hangs hooks on what has gradients, and fails on views of parameters: a copy is counted, without any.
    counted = copy.deepcopy(model).requires_grad_(False)
    with spelled_out(counted), FlopCounterMode(display=False) as counter:
        call_model(counted, example)
    return int(counter.get_total_flops()) // 2


def _report(group: Group, gone: Sequence[int]) -> ShrunkGroup:
    lost = set(gone)
    return ShrunkGroup(
        name=group.name,
        kind=group.kind,
        before=len(group.units),
        after=len(group.units) - len(lost),
        width=group.width,
        removed=tuple(position for position, unit in enumerate(group.units) if unit in lost),
        parameters=group.sites,
    )
