"""The report as tables in a terminal: 80 columns suffice, and without colour nothing is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from isogrid.report import comparison, selection, wording
from isogrid.report.comparison import ComparedRun
from isogrid.report.data import ReportData, Speed
from isogrid.units import counted, operations, size

if TYPE_CHECKING:
    from isogrid.sparsify.sensitivity import Sensitivity

_MOST_POINTS = 12
_MOST_LAYERS = 16
_MOST_LEVELS = 6
_BAR = 12

_STATE_STYLE = {"held": "bold green", "broken": "bold red", "unresolved": "bold yellow", "untested": "bold yellow"}


def render(data: ReportData, console: Console) -> None:
    """Print the comparison, the speed, the frontier, the layers and the verdict on ``console``.

    On anything that is not a terminal only ASCII is printed, besides what the user's own names hold.

    >>> from rich.console import Console
    >>> render(data, Console(width=80))                                            # doctest: +SKIP
    """
    plain = not console.is_terminal
    console.print(Text(wording.one_line(data.title), style="bold"))
    console.print(_comparison(data, plain))
    if data.speed is not None:
        console.print(_speed(data.speed, plain))
    if data.points:
        console.print(_frontier(data, plain))
    if data.layers:
        console.print(_layers(data, plain))
    console.print(Text(wording.verdict(data), style=_STATE_STYLE[data.verdict.state]))


def render_comparison(runs: Sequence[ComparedRun], console: Console) -> None:
    """Print runs side by side: balance points, metric at each sparsity, what it took, and in what they differ."""
    plain = not console.is_terminal
    name = wording.one_line(runs[0].report.metric.name, 16)
    for title, (heading, rows) in (
        (f"balance points, {wording.judged(runs[0].report)[0]} {name}", comparison.summaries(runs)),
        (f"validation {name} at each sparsity", comparison.ladders(runs, _MOST_LEVELS)),
        ("what it took", comparison.costs(runs)),
    ):
        table = _table(title, plain)
        table.add_column(heading[0], overflow="fold", min_width=8)
        for index, column in enumerate(heading[1:], 1):
            # Columns of one long word each (verdicts) keep it whole; the others make room, broken between words.
            longest = max(len(word) for row in rows for word in ("", *row[index].split()))
            table.add_column(column, justify="right", overflow="fold", no_wrap=longest > len(column))
        for row in rows:
            table.add_row(*(Text(wording.one_line(cell)) for cell in row))
        console.print(table)
    differing = comparison.differences(runs)
    if differing:
        console.print(Text("in what they differ", style="italic"))
        for option, values in differing:
            console.print(Text(f"  {option}", style="bold"))
            for run, value in zip(runs, values, strict=True):
                console.print(Text(f"    {wording.one_line(run.name)}: {wording.one_line(value)}"), soft_wrap=True)


def render_sensitivity(found: Sensitivity, console: Console, bearable: Mapping[str, float] | None = None) -> None:
    """Print what the metric loses where one layer alone is pruned, and the sparsity that each layer bears."""
    written = wording.scale_of(found.metric, found.baseline)
    name = wording.one_line(found.metric.name, 16)
    unit = f" ({written.unit})" if written.unit else ""
    title = f"{name} lost{unit} where a share of a layer is zero, of {written.value(found.baseline)}"
    table = _table(title, not console.is_terminal)
    table.add_column("layer", no_wrap=True)
    _numbers(table, ("weights", *(f"{100 * sparsity:.4g} %" for sparsity in found.sparsities)))
    if bearable is not None:
        _numbers(table, ("bears",))
    for name, short in zip(found.layers, wording.short_names(list(found.layers), 24), strict=True):
        drops = (found.drop(name, sparsity) for sparsity in found.sparsities)
        lost = (written.difference(drop).removesuffix(written.unit).strip() for drop in drops)
        last = () if bearable is None else (f"{100 * bearable[name]:.4g} %",)
        table.add_row(*map(Text, (short, wording.whole(found.sizes[name]), *lost, *last)))
    console.print(table)


def _table(title: str, plain: bool) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="italic",
        box=box.ASCII2 if plain else box.SIMPLE_HEAD,
        safe_box=True,
        pad_edge=False,
        header_style="bold",
    )


def _numbers(table: Table, names: Sequence[str]) -> None:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)


def _comparison(data: ReportData, plain: bool) -> Table:
    dense, balance, metric = data.dense, data.balance, data.metric
    written = wording.scale(data)
    table = _table("dense model and balance point", plain)
    table.add_column("")
    _numbers(table, ("dense", "balance point", "change"))
    split, was, now = wording.judged(data)
    name = wording.one_line(metric.name, 20)
    rows = (
        (f"{split} {name}", written.value(was), written.value(now), written.change(metric.worse_by(was, now))),
        ("sparsity of targets", wording.share(dense.sparsity), wording.share(balance.sparsity), ""),
        ("sparsity of model", wording.share(dense.sparsity_of_model), wording.share(balance.sparsity_of_model), ""),
        ("nonzeros", wording.whole(dense.nonzeros), wording.whole(balance.nonzeros),
         f"{wording.times(dense.nonzeros / max(balance.nonzeros, 1))}x fewer"),
        ("weights stored as", dense.precision, balance.precision, ""),
        ("bytes", size(dense.bytes), size(balance.bytes),
         f"{wording.times(data.compression)}x smaller"),
    )  # fmt: skip
    for row in rows:
        table.add_row(*map(Text, row))
    if (cost := data.training) is not None:
        table.add_row("training", operations(cost.dense), operations(cost.balance), wording.more(cost))
    return table


def _speed(speed: Speed, plain: bool) -> Table:
    table = _table(f"in ONNX Runtime, {counted(speed.threads, 'thread')}", plain)
    table.add_column("")
    _numbers(table, ("samples a call", "ms", "quartiles", "times faster"))
    for row in speed.rows:
        faster = f"{row.times:.2f}x ({row.times_low:.2f} to {row.times_high:.2f})"
        table.add_row(
            row.model, str(row.batch), f"{row.milliseconds:.3g}", f"{row.low:.3g} to {row.high:.3g}",
            "" if row.model == "dense" else faster,
            style="bold" if row.model == "packed" else "",
        )  # fmt: skip
    return table


def _frontier(data: ReportData, plain: bool) -> Table:
    whole = selection.frontier(data.points, len(data.points))
    shown = selection.frontier(data.points, _MOST_POINTS)
    written = wording.scale(data)
    left_out = f", {len(whole) - len(shown)} more on the page" if len(whole) > len(shown) else ""
    title = f"frontier on the validation split, floor {written.value(data.floor.limit)}{left_out}"
    table = _table(title, plain)
    table.add_column("")
    table.add_column("rung", justify="right")
    _numbers(
        table,
        (
            "sparsity",
            "weights",
            "nonzeros",
            wording.one_line(data.metric.name, 16),
            "bytes",
        ),
    )
    table.add_column("floor")
    for point in shown:
        row = (
            ("*" if plain else "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}") if point.chosen else "",
            str(point.rung),
            wording.share(point.sparsity),
            point.precision,
            wording.whole(point.nonzeros),
            written.value(point.metric),
            size(point.bytes),
            "holds" if point.holds else "broken",
        )
        table.add_row(
            *map(Text, row),
            style="bold" if point.chosen else ("" if point.holds else "dim"),
        )
    return table


def _layers(data: ReportData, plain: bool) -> Table:
    shown = selection.largest_layers(data.layers, _MOST_LAYERS)
    left_out = f", the {len(shown)} largest of {len(data.layers)}" if len(shown) < len(data.layers) else ""
    table = _table(f"sparsity of each layer{left_out}", plain)
    table.add_column("layer", no_wrap=True)
    if not plain:
        table.add_column("", no_wrap=True)
    _numbers(table, ("sparsity", "nonzeros", "dead units"))
    names = wording.short_names([layer.name for layer in shown], 24)
    for name, layer in zip(names, shown, strict=True):
        bar = () if plain else (_bar(layer.sparsity),)
        numbers = (
            wording.share(layer.sparsity),
            wording.whole(layer.nonzeros),
            f"{layer.dead_units} of {layer.units}",
        )
        table.add_row(Text(name), *bar, *map(Text, numbers))
    return table


def _bar(fraction: float) -> Text:
    # Rounded down, so that only a layer without any weight left has a full bar.
    full = int(fraction * _BAR)
    return Text("\N{BOX DRAWINGS HEAVY HORIZONTAL}" * full, style="cyan") + Text(
        "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (_BAR - full), style="dim"
    )
