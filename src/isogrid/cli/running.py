"""Verbs that run ONNX models: run, benchmark."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from isogrid.cli.app import app
from isogrid.cli.options import numbers, shapes

Shapes = Annotated[
    list[str] | None, typer.Option(metavar="NAME=1x3x224x224", help="The shape to assume for an input; repeatable.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of a call; by default one a core.")]

_SHOWN = 6
"""Numbers and items of an output that are shown."""


@app.command()
def run(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A model, packed or not.")],
    inputs: Annotated[
        Path | None, typer.Option(help="Its inputs: .npz, an array for each by name. Without it, random numbers.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the outputs there, as .npz.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples of random inputs.")] = 1,
    shape: Shapes = None,
    threads: Threads = None,
) -> None:
    """Run a model once and show what comes out."""
    from isogrid.runtime.answers import answer, write_arrays

    outputs = answer(model, inputs=inputs, batch=batch, shapes=shapes(shape), threads=threads)
    console = Console(soft_wrap=True)
    for name, output in outputs.items():
        console.print(f"{name} {_described(output)}", highlight=False, markup=False)
    if out is not None:
        write_arrays(out, outputs)


@app.command()
def benchmark(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL.onnx ...", help="Models with the same inputs; the first is the baseline."),
    ],
    at: Annotated[
        str | None,
        typer.Option(metavar="0.8,0.9,0.95", help="Also the first model with random masks of these sparsities."),
    ] = None,
    threads: Threads = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples a call, where the model leaves that open.")] = 1,
    shape: Shapes = None,
    inputs: Annotated[Path | None, typer.Option(help="Real inputs: .npz, an array for each by name.")] = None,
    values: Annotated[str, typer.Option(help="How packed weights are stored: fp32, fp16 or int8.")] = "fp32",
    rivals: Annotated[bool, typer.Option(help="Also ONNX Runtime's int8 and OpenVINO, if installed.")] = True,
    seconds: Annotated[float, typer.Option(help="How long the race takes, about.")] = 10.0,
    plot: Annotated[Path | None, typer.Option(help="Write a chart there: .png, .svg or .pdf.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time models on this machine: as they are, packed, and in what else runs them.

    With --at it tells beforehand what sparsity would buy: random zeros cost what trained ones do.
    """
    from isogrid.formats.numbers import parse_values
    from isogrid.runtime.benchmarking.racing import benchmark as race
    from isogrid.runtime.benchmarking.result import check_plot

    if plot is not None:
        check_plot(plot)
    told = Console(stderr=True)
    found = race(
        list[str | os.PathLike[str]](models), at=numbers("--at", at) if at else (), threads=threads, batch=batch,
        shapes=shapes(shape), inputs=inputs, values=parse_values(values), rivals=rivals, seconds=seconds,
        say=lambda text: told.print(text, style="dim", highlight=False, markup=False),
    )  # fmt: skip
    if plot is not None:
        found.plot(plot)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        found.show(Console())


def _described(output: Any) -> str:
    """What an output of a model is, and the first of its numbers: an array, or a list or map of them."""
    if isinstance(output, Mapping):
        return f"map of {len(output)}: {_first([f'{key}: {_brief(value)}' for key, value in output.items()])}"
    if isinstance(output, list):
        return f"list of {len(output)}: {_first([_brief(item) for item in output])}"
    if not hasattr(output, "dtype"):
        return str(output)
    return f"{_kind(output)}: {_first([_brief(number) for number in output.reshape(-1)[: _SHOWN + 1].tolist()])}"


def _brief(item: Any) -> str:
    if isinstance(item, Mapping):
        return f"{{{_first([f'{key}: {_brief(value)}' for key, value in item.items()])}}}"
    if isinstance(item, list):
        return f"[{_first([_brief(part) for part in item])}]"
    if isinstance(item, float):
        return f"{item:.6g}"
    return _kind(item) if hasattr(item, "dtype") else str(item)


def _kind(array: Any) -> str:
    sizes = "x".join(map(str, array.shape)) or "scalar"
    return f"{sizes} {'text' if array.dtype == object else array.dtype}"


def _first(parts: list[str]) -> str:
    return ", ".join(parts[:_SHOWN]) + " ..." * (len(parts) > _SHOWN)
