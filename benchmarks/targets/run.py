"""The instruction sets that this processor has, against each other: the same models, at 90 % zeros, in one process.

    python benchmarks/targets/run.py [--threads 1] [--sparsity 0.9] [--only ResNet tokens]

The models of benchmarks/models and a linear layer with few to many tokens.  Outputs are compared with PyTorch's before
anything is timed; targets take turns, and a ratio is the median of the rounds' with its 95 % interval.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor, nn

import isogrid as ig
from benchmarks.common import equality, options
from benchmarks.common.machine import description
from benchmarks.models.zoo import MODELS, build
from isogrid import _native
from isogrid.runtime.timing import Candidate, race, ratio

TOKENS = (12, 20, 64, 256)


def main() -> None:
    parser = options.parser(__doc__ or "", minutes=4.0, sparsities=(0.9,), threads="1")
    given = parser.parse_args()
    options.quiet()
    threads = options.usable_threads(given.threads)[0]
    targets = [name for name in _native.targets() if name != "baseline"] or _native.targets()
    cases = dict(_cases(given.sparsity[0]))
    names = options.chosen(list(cases), given.only)
    pace = options.Pace(60 * given.minutes, len(names))
    print(f"{description()['processor']}, threads: {threads}, zeros: {100 * given.sparsity[0]:g} %\n")
    others = targets[1:]
    print("| | " + " | ".join(f"{name}, ms" for name in targets) + "".join(f" | over {name}" for name in others) + " |")
    print("|---" * (len(targets) + len(others) + 1) + "|")
    for name, seconds in zip(names, pace.shares(), strict=True):
        print(f"| {name} | {_row(*cases[name](), targets, threads, seconds)} |", flush=True)


def _cases(sparsity: float) -> Iterator[tuple[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]]]:
    for name, zoo in MODELS.items():
        yield name, lambda zoo=zoo: (build(zoo.make, sparsity), zoo.inputs)
    for tokens in TOKENS:
        yield f"linear 1536x384, {tokens} tokens", lambda tokens=tokens: _linear(sparsity, tokens)


def _linear(sparsity: float, tokens: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(384, 1536))
    ig.prune(layer, ig.OneShot(sparsity=sparsity))
    return layer.eval(), (torch.randn(tokens, 384),)


def _row(model: nn.Module, inputs: tuple[Tensor, ...], targets: list[str], threads: int, seconds: float) -> str:
    """Milliseconds of each target, and how many times faster the first one is than each of the others."""
    torch.set_num_threads(threads)
    with torch.no_grad():
        wanted = model(*inputs)
        candidates = {}
        for target in targets:
            _native.select_target(target)
            compiled = ig.compile(model, inputs)
            equality.check(compiled(*inputs), wanted)
            candidates[target] = Candidate(_on(target, compiled, inputs), threads)
        samples = race(candidates, seconds=0.8 * seconds, set_threads=torch.set_num_threads)
    best, *others = targets
    return " | ".join(
        [f"{1e3 * samples[name].median:.3g}" for name in targets]
        + [str(ratio(samples[name], samples[best])) for name in others]
    )


def _on(target: str, compiled: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], Any]:
    def call() -> Any:
        _native.select_target(target)
        return compiled(*inputs)

    return call


if __name__ == "__main__":
    main()
