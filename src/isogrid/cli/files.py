"""Verbs over files of models: inspect, pack, unpack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from isogrid.cli.app import app
from isogrid.cli.options import shapes

if TYPE_CHECKING:
    from isogrid.runtime.packing import PackReport


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A run directory, an .onnx or a .safetensors file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count what a file really holds.

    Zeros, nonzeros, parameters and bytes, in all and by layer.
    """
    from isogrid.inspection import inspect as look

    found = look(path)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    console = Console()
    table = Table("layer", "shape", title=Text(str(path)), caption=_totals(found.to_json()))
    for name in ("parameters", "nonzeros", "sparsity"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in found.layers:
        table.add_row(
            Text(layer.name, overflow="fold"), " x ".join(map(str, layer.shape)), f"{layer.parameters:,}",
            f"{layer.nonzeros:,}", f"{100 * layer.sparsity:.2f} %",
        )  # fmt: skip
    console.print(table)
    for key, value in found.provenance.items():
        console.print(f"{key}: {value}", highlight=False, markup=False)


@app.command()
def pack(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The model.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.")],
    values: Annotated[str, typer.Option(help="How packed weights are stored: fp32, fp16 or int8.")] = "fp32",
    batch: Annotated[int, typer.Option(min=1, help="Samples a call, for which speed is judged.")] = 1,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=1x3x224x224", help="The shape to assume for an input; repeatable."),
    ] = None,
    inputs: Annotated[Path | None, typer.Option(help="Real inputs (.npz) to compare the results on, too.")] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Decide by timing the model instead of by the cost model.")
    ] = False,
    choices: Annotated[Path | None, typer.Option(help="Decisions that stand, as --save-choices wrote them.")] = None,
    save_choices: Annotated[Path | None, typer.Option(help="Write the decisions there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put a model's sparse layers on the native kernels, for ONNX Runtime.

    The result is compared with the original before it is written.  It runs with isogrid.runtime.Session, or in any
    session that registers the library of isogrid.runtime.library_path().
    """
    from isogrid.formats.files import write_atomically
    from isogrid.formats.numbers import parse_values
    from isogrid.runtime.packing import pack as pack_model

    report = pack_model(
        source, target, values=parse_values(values), batch=batch, shapes=shapes(shape), inputs=inputs,
        choices=choices, tune=tune,
    )  # fmt: skip
    if save_choices is not None:
        write_atomically(save_choices, (json.dumps(report.choices, indent=1) + "\n").encode())
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
        return
    console = Console()
    console.print(_pack_table(report))
    for note in report.notes:
        console.print(note, highlight=False)


@app.command()
def unpack(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="A packed model.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.")],
) -> None:
    """Give back the standard ONNX model of a packed one."""
    from isogrid.runtime.packing import unpack as unpack_model
    from isogrid.units import size

    print(f"{target}: {size(unpack_model(source, target))}")


def _pack_table(report: PackReport) -> Table:
    from isogrid.units import size

    table = Table("layer", "kind", title=Text(str(report.target)), caption=_pack_totals(report), box=None)
    for name in ("zeros", "before", "after", "gain"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("choice")
    for node in report.nodes:
        sparse = node.choice == "sparse"
        why = [] if node.reason == "cost model" else [node.reason]
        table.add_row(
            Text(node.name, overflow="fold"), f"{node.kind} {'x'.join(map(str, node.shape))}",
            f"{100 * node.sparsity:.1f} %", size(node.bytes_before), size(node.bytes_after) if sparse else "",
            "" if node.gain is None else f"{node.gain:.1f}x",
            ", ".join([node.choice, *why, f"with {node.fused}"] if node.fused else [node.choice, *why]),
        )  # fmt: skip
    return table


def _pack_totals(report: PackReport) -> str:
    from isogrid.units import size

    return (
        f"{report.packed} of {len(report.nodes)} layers packed, {100 * report.coverage:.1f} % of the multiply-adds; "
        f"{size(report.bytes_before)} became {size(report.bytes_after)}; outputs differ by {report.difference:.1g}"
    )


def _totals(found: dict[str, Any]) -> str:
    return (
        f"{found['nonzeros']:,} nonzeros of {found['parameters']:,} parameters in {found['bytes']:,} bytes; sparsity "
        f"{100 * found['sparsity']:.2f} % of the targets, {100 * found['sparsity_of_model']:.2f} % of the model"
    )
