"""Whole models: `isogrid.compile` beside the dense model in PyTorch and in ONNX Runtime.

PyTorch runs it plainly, with channels last, and through `torch.compile`; the best of all rivals counts.

    python benchmarks/models/run.py [--sparsity 0.9] [--masks random] [--models mobilenet] [--threads 2] [--json FILE]
"""

import argparse
import copy
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from models.zoo import MODELS, build
from timing import compare, interleaved, ratio

import isogrid as ig


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def channels_last(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], Any]:
    moved = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x = inputs[0].to(memory_format=torch.channels_last)
    return lambda: moved(x, *inputs[1:])


def torch_compiled(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], Any]:
    compiled = torch.compile(copy.deepcopy(model))
    with torch.no_grad():
        compiled(*inputs)
    return lambda: compiled(*inputs)


def onnx_runtime(model: nn.Module, inputs: tuple[Tensor, ...], threads: int) -> Callable[[], Any]:
    import onnxruntime

    file = io.BytesIO()
    torch.onnx.export(model, inputs, file, dynamo=False, opset_version=17)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    feed = {node.name: x.numpy() for node, x in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: session.run(None, feed)


def rivals(model: nn.Module, inputs: tuple[Tensor, ...], threads: int) -> dict[str, Callable[[], Any]]:
    """The dense rivals that can run the model; what cannot is named with its reason."""
    found: dict[str, Callable[[], Any]] = {"eager": lambda: model(*inputs)}
    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        "torch.compile": lambda: torch_compiled(model, inputs),
        "onnxruntime": lambda: onnx_runtime(model, inputs, threads),
    }
    if inputs[0].dim() == 4:
        makers["channels last"] = lambda: channels_last(model, inputs)
    wanted = first(model(*inputs))
    for name, make in makers.items():
        try:
            call = make()
            got = call()
        except Exception as problem:
            print(f"  {name} failed: {str(problem).splitlines()[0][:100]}", flush=True)
            continue
        compare(wanted, torch.as_tensor(got[0] if isinstance(got, (list, tuple)) else got), name)
        found[name] = call
    return found


def measure(name: str, sparsity: float, masks: str, threads: int, rounds: int) -> dict[str, Any]:
    model, inputs = build(name, sparsity, masks)
    with torch.no_grad():
        candidates = rivals(model, inputs, threads)
        fast = ig.compile(model, inputs)
        compare(first(model(*inputs)), first(fast(*inputs)), "isogrid")
    candidates["isogrid"] = lambda: fast(*inputs)
    timed = interleaved(candidates, rounds)
    best = min((rival for rival in timed if rival != "isogrid"), key=lambda rival: timed[rival].median)
    middle, low, high = ratio(timed[best], timed["isogrid"])
    print(f"{name}, {100 * sparsity:g} % ({masks}), {threads} threads")
    for rival, seconds in timed.items():
        print(f"  {rival:14} {seconds}")
    print(f"  {middle:.2f}x over {best} ({low:.2f} to {high:.2f})", end="; ")
    print(f"{100 * fast.coverage:.1f} % of the multiply-adds are sparse", flush=True)
    return {
        "model": name, "sparsity": sparsity, "masks": masks, "threads": threads, "best": best, "ratio": middle,
        "low": low, "high": high, "coverage": fast.coverage, "notes": fast.notes,
        "ms": {rival: 1000 * seconds.median for rival, seconds in timed.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.9])
    parser.add_argument("--masks", choices=["random", "trained"], default="random")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    rows = [
        measure(name, sparsity, options.masks, options.threads, options.rounds)
        for name in options.models
        for sparsity in options.sparsity
    ]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with torch.no_grad():
        main()
