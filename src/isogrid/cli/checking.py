"""What the data are worth, and what a model makes of them: check, explain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from isogrid.cli.app import app

if TYPE_CHECKING:
    from isogrid.explain import Explanation
    from isogrid.quality import DataReport

_COLOURS = {"good": "green", "note": "yellow", "problem": "red"}


@app.command()
def check(
    task: Annotated[str, typer.Argument(metavar="TASK", help="A ready task's name or the path of a task file.")],
    setting: Annotated[str | None, typer.Option(help="Of a ready task that has several.")] = None,
    samples: Annotated[int, typer.Option(min=10, help="How many samples of a split are compared.")] = 5000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
) -> None:
    """Look for what makes a task's results mislead: duplicates, wrong labels, rare classes, dead inputs."""
    from isogrid.quality import check as look
    from isogrid.tasks import load_task

    loaded = load_task(task) if setting is None else load_task(task).at(setting)
    with Console(stderr=True).status("looking at the data"):
        found = look(loaded, samples=samples, seed=seed)
    if as_json:
        print(found.to_json(), end="")
    else:
        _render(found, Console())


def _render(found: DataReport, console: Console) -> None:
    sizes = ", ".join(f"{count:,} {split}" for split, count in found.samples.items())
    title = Text(f"data of {found.task}: {sizes} samples", style="table.title")
    table = Table(title=title, title_justify="left", show_lines=True)
    for heading in ("check", "", "what was found"):
        table.add_column(heading, overflow="fold")
    for finding in found.findings:
        text = finding.text
        for split, positions in finding.examples.items():
            text += f"\n{split} samples {', '.join(map(str, positions[:5]))}{' ...' if len(positions) > 5 else ''}"
        table.add_row(finding.check, Text(finding.grade, style=_COLOURS[finding.grade]), Text(text))
    console.print(table)
    for reason in found.skipped:
        console.print(f"not checked: {reason}", markup=False)


@app.command()
def explain(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN [RUN ...]", help="A finished run, and others from other seeds.")
    ],
    task: Annotated[str | None, typer.Option(help="The run's task, where it is a file of your own.")] = None,
    batches: Annotated[int, typer.Option(min=1, help="How many batches of the validation split to look at.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which inputs and units carry a run's sparse model, and what it does differently from the dense one.

    With several runs, also how alike their masks are.
    """
    from isogrid.explain import explain as look

    with Console(stderr=True).status("looking at the models"):
        found = look(runs[0], runs[1:], task=task, batches=batches)
    if as_json:
        print(found.to_json(), end="")
    else:
        _render_explanation(found, Console())


def _render_explanation(found: Explanation, console: Console) -> None:
    title = f"what carries the sparse model of {found.task} ({found.batches} batches of the {found.split} split)"
    console.print(Text(title, style="bold"))
    inputs = _table("inputs", "group", "inputs", "used", "carry half", "like dense", "strongest")
    for row in found.inputs:
        strongest = ", ".join(f"{name} {100 * share:.1f} %" for name, share in row.strongest[:5])
        inputs.add_row(
            Text(row.name), f"{len(row.importance):,}", f"{row.used:,}", f"{row.half:,}", _signed(row.like_dense),
            Text(strongest),
        )  # fmt: skip
    console.print(inputs)
    units = _table("units and channels", "layer", "units", "idle", "carry half", "like dense", "strongest")
    for unit in found.units:
        units.add_row(
            Text(unit.layer), f"{unit.units:,}", f"{unit.idle:,}", f"{unit.half:,}", _signed(unit.like_dense),
            ", ".join(map(str, unit.strongest)),
        )  # fmt: skip
    console.print(units)
    if found.confidence is not None:
        sure = _table("how sure the models are", "", "right", "mean confidence", "calibration error")
        for name, one in (("dense", found.confidence.dense), ("sparse", found.confidence.sparse)):
            sure.add_row(name, *(f"{100 * value:.2f} %" for value in (one.accuracy, one.mean, one.error)))
        console.print(sure)
        lost = ", ".join(f"{index} (-{100 * fall:.0f} pt)" for index, fall in found.confidence.lost[:5])
        console.print(
            f"{100 * found.confidence.turned:.1f} % of {found.confidence.samples:,} samples get another answer"
            + (f"; the right answer lost most at samples {lost}." if lost else "."),
            highlight=False,
        )
    if found.stability is not None:
        masks = _table("masks of all runs", "layer", "kept by both", "by chance", "inputs alike")
        for layer in found.stability:
            masks.add_row(
                Text(layer.layer), f"{100 * layer.overlap:.1f} %", f"{100 * layer.chance:.1f} %", _signed(layer.inputs)
            )
        console.print(masks)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(headings):
        numeric = index > 0 and heading != "strongest"
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    return table


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"
