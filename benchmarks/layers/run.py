"""Single layers: the sparse kernels beside everyone else, from no zeros to 99 %.

    python benchmarks/layers/run.py [--only 3072x768] [--threads 1,2] [--sparsity 0.9] [--quick] [--save]

Rivals are PyTorch (W @ X and F.linear, channels first and last, half and int8), torch.compile, ONNX Runtime, OpenVINO
and, on the nonzeros, PyTorch's compressed rows, which MKL multiplies.  Each is swept over its settings and its best is
kept.  Dense rivals are timed once, with dense weights: to them zeros are numbers like others.  Outputs are compared
before anything is timed.  "of limit" is the least time that this machine's multiply-adds, loads and memory allow for
the nonzeros, measured in the same run, over the time taken.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks import limits
from benchmarks.common import options, output
from benchmarks.common.contest import Result, failure, hold
from benchmarks.common.options import Pace
from benchmarks.layers.cases import Plan, cases, clear
from benchmarks.rivals import ALL

QUICK = (0.0, 0.9)


def main() -> None:
    parser = options.parser(__doc__ or "", minutes=3.5, sparsities=options.SPARSITIES, threads="1,2")
    given = parser.parse_args()
    options.quiet()
    torch.manual_seed(0)
    out = output.console()
    threads = options.usable_threads(given.threads)
    sparsities = QUICK if given.quick and given.sparsity == options.SPARSITIES else given.sparsity
    plan = Plan(threads, sparsities, options.known(given.rivals, ALL), not given.quick)
    every = {case.name: case for case in cases()}
    names = options.chosen(list(every), given.only)
    measured = {n: found for n in threads if (found := limits.try_measure(n, given.quick)) is not None}
    output.begin("Layers", threads, measured, out)
    pace = Pace(60 * given.minutes, len(names))
    results: list[Result] = []
    weights = ""
    for number, (name, seconds) in enumerate(zip(names, pace.shares(), strict=True), 1):
        out.print(f"\n[{number}/{len(names)}] {name}", markup=False)
        if weights != name.partition(", ")[0]:
            clear()
            weights = name.partition(", ")[0]
        case = every[name]
        try:
            entries = case.entries(plan)
        except (
            Exception
        ) as problem:  # of our own, since rivals prepare later: the other cases are measured all the same
            out.print(f"  {failure(problem)}", markup=False)
            continue
        results.append(
            hold(
                name,
                entries,
                threads,
                seconds=seconds,
                limits=measured,
                goals=case.goals,
                quick=given.quick,
                cold=given.cold,
                say=output.sayer(out),
            )
        )
        for budget in threads:
            output.show(results[-1], budget, out)
    judged = [goal for result in results for goal in result.goals]
    output.show_goals(judged, out)
    output.write("layers", results, measured, vars(given), save=given.save, out=out)


if __name__ == "__main__":
    main()
