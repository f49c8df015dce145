"""Whole models: `isogrid.compile` beside the same models, dense, in PyTorch, torch.compile, ONNX Runtime and OpenVINO.

    python benchmarks/models/run.py [--only ResNet MLP] [--sparsity 0.9] [--masks random] [--threads 1,2] [--quick]

Random masks at each sparsity, and masks like those of training at 90 %.  The baseline is the best of PyTorch (channels
first and last), torch.compile and ONNX Runtime, each in its best setting.  They are timed once, with dense weights: to
them zeros are numbers like others.  Outputs are compared before anything is timed.  At 50 % and less the question is
whether the compiled model is slower than the one that was compiled, in PyTorch as it is.  "of limit" is the least time
that this machine's multiply-adds, loads and memory allow for the nonzeros of all products, over the time taken.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import nn

from benchmarks import limits
from benchmarks.common import options, output
from benchmarks.common.contest import NOT_SLOWER, Contestant, Entry, Goal, Judged, Result, Work, failure, hold
from benchmarks.common.options import Pace
from benchmarks.models.zoo import MASKS, MODELS, Zoo, build, count
from benchmarks.rivals import DENSE, Example, Rival, Setting, rival
from benchmarks.rivals.cache import forget
from benchmarks.rivals.ours import RIVAL as ISOGRID
from benchmarks.rivals.ours import compiled_model
from isogrid.runtime.timing import Candidate, race, ratio

SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
QUICK = (0.0, 0.9)
PAYS = 0.5
"""Up to this sparsity nothing but "not slower" is asked for."""
TRAINED, TRAINED_SPARSITY = "isogrid, trained masks", 0.9
INT8_TOLERANCE = 0.25
"""Of the largest output, through all layers and with activations rounded too; the results say what was found."""
LARGE, LARGE_SPARSITIES = 1e6, (0.0, 0.5, 0.8, 0.9, 0.95)
"""With inputs of more numbers everything takes long: fewer settings and sparsities must do."""
SMALL = 50e6
"""With fewer multiply-adds a second thread may cost more than it brings, so one is tried as well."""


def main() -> None:
    parser = options.parser(__doc__ or "", minutes=10.0, sparsities=SPARSITIES, threads="2")
    parser.add_argument("--masks", choices=MASKS, nargs="+", default=list(MASKS), help="both if not given")
    given = parser.parse_args()
    options.quiet()
    out = output.console()
    threads = options.usable_threads(given.threads)
    sparsities = QUICK if given.quick and given.sparsity == SPARSITIES else given.sparsity
    rivals = options.known(given.rivals, DENSE)
    names = options.chosen(list(MODELS), given.only)
    measured = {n: found for n in threads if (found := limits.try_measure(n, given.quick)) is not None}
    output.begin("Models", threads, measured, out)
    pace = Pace(60 * given.minutes, len(names))
    results: list[Result] = []
    compiled: dict[str, dict[str, Any]] = {}
    made: Callable[[], nn.Module] | None = None
    for number, (name, seconds) in enumerate(zip(names, pace.shares(), strict=True), 1):
        out.print(f"\n[{number}/{len(names)}] {name}", markup=False)
        zoo = MODELS[name]
        large = sum(x.numel() for x in zoo.inputs) > LARGE
        thorough = not given.quick and not large
        chosen = tuple(s for s in sparsities if s in LARGE_SPARSITIES or given.sparsity != SPARSITIES or not large)
        forget()
        if made is not zoo.make:
            build.cache_clear()
            made = zoo.make
        try:
            entries = [
                *_dense(zoo, rivals, threads, thorough),
                *_ours(zoo, chosen, given.masks, threads, thorough),
            ]
        except (
            Exception
        ) as problem:  # of our own, since rivals prepare later: the other models are measured all the same
            out.print(f"  {failure(problem)}", markup=False)
            continue
        results.append(
            hold(
                name,
                entries,
                threads,
                seconds=0.8 * seconds,
                limits=measured,
                goals=[Goal(ISOGRID.name, 0.9, zoo.goal)],
                quick=given.quick,
                cold=given.cold,
                say=output.sayer(out),
            )
        )
        for budget in threads:
            output.show(results[-1], budget, out)
        compiled[name] = _compiled(zoo, chosen, given.masks)
        for masks, found in compiled[name].items():
            notes = "".join(f"; {note}" for note in found["notes"])
            covered = f"{100 * found['coverage']:.1f} % of the multiply-adds run sparse"
            out.print(f"  {masks}: {covered}{notes}", markup=False)
        if "random" in given.masks:
            for sparsity in (s for s in chosen if s <= PAYS):
                judged = _not_slower(name, zoo, sparsity, threads, 0.05 * seconds, given.quick)
                results[-1].goals += judged
                for one in judged:
                    out.print(
                        f"  compiled over the model itself at {100 * sparsity:g} %, {one.threads} threads: {one.ratio}"
                    )
    output.show_goals([goal for result in results for goal in result.goals], out)
    output.write("models", results, measured, vars(given), save=given.save, out=out, extra={"compiled": compiled})


def _not_slower(
    name: str, zoo: Zoo, sparsity: float, threads: tuple[int, ...], seconds: float, quick: bool
) -> list[Judged]:
    """A race of two: the compiled model and the very one that was compiled, nobody else between them."""
    model, inputs = build(zoo.make, sparsity), zoo.inputs
    try:
        compiled = compiled_model(model, inputs)
    except Exception:  # its row in the table says why
        return []
    found = []
    for n in threads:
        with torch.no_grad():
            samples = race(
                {
                    "compiled": Candidate(lambda: compiled(*inputs), n),
                    "itself": Candidate(lambda: model(*inputs), n),
                },
                seconds=0.0 if quick else seconds / len(threads),
                least_rounds=5 if quick else 9,
                most_rounds=41,
                set_threads=torch.set_num_threads,
            )
        goal = Goal(ISOGRID.name, sparsity, NOT_SLOWER, ("itself, in PyTorch",))
        found.append(Judged(name, n, goal, ratio(samples["itself"], samples["compiled"]), goal.over[0]))
    return found


def _tried(threads: tuple[int, ...], work: Work) -> tuple[int, ...]:
    return tuple(range(1, max(threads) + 1)) if work.multiply_adds < SMALL else threads


def _dense(zoo: Zoo, rivals: tuple[str, ...], threads: tuple[int, ...], thorough: bool) -> list[Entry]:
    model, inputs = build(zoo.make, 0.0), zoo.inputs
    with torch.no_grad():
        wanted = model(*inputs)
    work = count(model, inputs)
    forms: list[tuple[nn.Module, Example]] = [(model, inputs)]
    if inputs[0].dim() == 4:
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        forms.append((last, tuple(x.to(memory_format=torch.channels_last) for x in inputs)))
    found: list[Entry] = []
    for name in rivals:
        one = rival(name)
        for number, (form, example) in enumerate(forms):
            if number and name != "eager":
                continue  # torch.compile chooses the layout by itself
            for setting in one.settings(form, example, thorough):
                plain = setting.values == "fp32"
                title = one.name if plain else f"{one.name} {setting.values}"
                title += ", channels last" if number else ""
                who = Contestant(title, None, False, plain and name != "openvino", setting.values)
                found += [
                    Entry(
                        who,
                        setting.label,
                        n,
                        _later(one, form, example, n, setting),
                        wanted,
                        1e-3 if plain else INT8_TOLERANCE,
                        # What is known of dense work is known of float32 only.
                        Work(work.multiply_adds, work.weight_bytes) if plain else Work(),
                    )
                    for n in _tried(threads, work)
                ]
    return found


def _later(one: Rival, model: nn.Module, example: Example, threads: int, setting: Setting) -> Callable[[], Any]:
    return lambda: one.prepare(model, example, threads, setting.values, **setting.options)


def _variants(sparsities: tuple[float, ...], masks: list[str]) -> list[tuple[str, float, str]]:
    """Name, sparsity and masks of the models that are compiled."""
    found = [(ISOGRID.name, sparsity, "random") for sparsity in sparsities if "random" in masks]
    if "trained" in masks:
        # On its own, at what was asked for.
        at = [TRAINED_SPARSITY] if "random" in masks else [sparsity for sparsity in sparsities if sparsity > 0]
        found += [(TRAINED, sparsity, "trained") for sparsity in at]
    return found


def _ours(
    zoo: Zoo, sparsities: tuple[float, ...], masks: list[str], threads: tuple[int, ...], thorough: bool
) -> list[Entry]:
    inputs = zoo.inputs
    tried = _tried(threads, count(build(zoo.make, 0.0), inputs))
    found: list[Entry] = []
    for name, sparsity, kind in _variants(sparsities, masks):
        model = build(zoo.make, sparsity, kind)
        with torch.no_grad():
            wanted = model(*inputs)
        work = count(model, inputs)
        with_int8 = thorough and sparsity == TRAINED_SPARSITY and kind == "random"
        values = ["fp32", "int8"] if with_int8 else ["fp32"]
        for stored in values:
            plain = stored == "fp32"
            who = Contestant(name if plain else f"{name} {stored}", sparsity, ours=True, values=stored)
            found += [
                Entry(
                    who,
                    "",
                    n,
                    _later(ISOGRID, model, inputs, n, Setting("", stored)),
                    wanted,
                    1e-3 if plain else INT8_TOLERANCE,
                    work if plain else Work(work.multiply_adds, work.weight_bytes / 2, work.gathers),
                )
                for n in tried
            ]
    return found


def _compiled(zoo: Zoo, sparsities: tuple[float, ...], masks: list[str]) -> dict[str, dict[str, Any]]:
    """What `isogrid.compile` says of itself."""
    found = {}
    for _, sparsity, kind in _variants(sparsities, masks):
        with contextlib.suppress(Exception):  # its row in the table says why
            one = compiled_model(build(zoo.make, sparsity, kind), zoo.inputs)
            found[f"{100 * sparsity:g} % {kind}"] = {"coverage": one.coverage, "notes": list(one.notes)}
    return found


if __name__ == "__main__":
    main()
