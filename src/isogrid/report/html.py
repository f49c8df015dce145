"""The report as one self-contained HTML page: no network, no script, light and dark, on any screen and on paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isogrid.errors import MissingDependencyError
from isogrid.formats.files import write_atomically
from isogrid.report import comparison, figures, selection, wording
from isogrid.report.comparison import ComparedRun
from isogrid.report.data import ReportData
from isogrid.units import counted, operations, size

try:
    import jinja2
    from markupsafe import Markup, escape
except ImportError as error:
    raise MissingDependencyError(
        'The report page needs jinja2, which is not installed: pip install "isogrid[report]".'
    ) from error

if TYPE_CHECKING:
    from isogrid.sparsify.sensitivity import Sensitivity

# CSS pixels the figures are drawn for: the column of a desktop page, half of it, a tile, and a telephone.
_COLUMN, _HALF, _TILE, _NARROW = 760, 560, 250, 340

_MOST_POINTS = 24
_MOST_LEVELS = 10


def write_html(data: ReportData, path: str | Path) -> int:
    """Write the report page to ``path``, whole or not at all, and return its bytes.

    Raises UsageError if a number in ``data`` is not finite and RunError if the file cannot be written.  Without
    matplotlib or jinja2 importing this module raises MissingDependencyError.
    """
    return _write(page(data), path)


def page(data: ReportData) -> str:
    """Return the report as the text of one HTML page; the same data gives the same text."""
    # Through JSON and back: numpy numbers become plain ones, and whatever a saved report refuses is refused here too.
    data = ReportData.from_json(data.to_json())
    scale = wording.scale(data)
    points = selection.frontier(data.points, _MOST_POINTS)
    return _page(
        "template.html.j2",
        scale,
        data=data,
        interval=_unbroken(scale.interval(data.verdict.low, data.verdict.high)),
        headline=headline(data),
        judged=wording.judged(data),
        verdict=wording.verdict(data),
        frontier=points,
        frontier_is_whole=len(points) == len(selection.frontier(data.points, len(data.points))),
        drawings=_drawings(data),
    )


def headline(data: ReportData) -> str:
    """Say what the run came to, in one short sentence."""
    name = wording.one_line(data.metric.name, 40)
    if data.verdict.state == "untested":
        return f"No test split: whether {name} holds is not confirmed."
    within = f"within {wording.scale(data).allowance(data.verdict.allowed)} of the dense model"
    if data.balance.nonzeros == data.dense.nonzeros and data.balance.precision == data.dense.precision:
        return f"Nothing could be removed while {name} stays {within}."
    return {
        "held": f"{_sentence_case(name)} stays {within}.",
        "broken": f"{_sentence_case(name)} does not stay {within}.",
        "unresolved": f"{wording.whole(data.verdict.samples)} samples cannot tell whether {name} stays {within}.",
    }[data.verdict.state]


def typographic(text: str) -> str:
    r"""Exchange plain characters for typographic ones: signs for minus and ellipsis, no break before a unit.

    >>> ascii(typographic("-0.28 pt"))
    "'\\u22120.28\\xa0pt'"
    """
    text = re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text).replace("...", "\N{HORIZONTAL ELLIPSIS}")
    return re.sub(r"(?<=\d) (?=\D)", "\N{NO-BREAK SPACE}", text)


def _unbroken(text: str) -> str:
    return typographic(text).replace(" ", "\N{NO-BREAK SPACE}")


def _sentence_case(text: str) -> str:
    # str.capitalize would turn "RMSE" into "Rmse".
    return text[:1].upper() + text[1:]


def _breakable(name: str) -> Markup:
    """Let a dotted name break after its dots and slashes."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[./])", wording.one_line(name)))


def write_comparison(runs: Sequence[ComparedRun], path: str | Path) -> int:
    """Write a page with the runs side by side to ``path``, whole or not at all, and return its bytes.

    Raises RunError if the file cannot be written.
    """
    return _write(comparison_page(runs), path)


def comparison_page(runs: Sequence[ComparedRun]) -> str:
    """Return the comparison as the text of one HTML page; the same runs give the same text."""
    drawn = runs[: figures.MOST_CURVES]
    return _page(
        "compare.html.j2",
        wording.scale(runs[0].report),
        kind="comparison",
        title=counted(len(runs), "run"),
        runs=runs,
        drawn=drawn,
        marks=[Markup(figures.curve_mark(index)) for index in range(len(drawn))],
        metric=runs[0].report.metric,
        judged=" or ".join(sorted({wording.judged(run.report)[0] for run in runs})),
        summaries=comparison.summaries(runs),
        costs=comparison.costs(runs),
        ladders=comparison.ladders(runs, _MOST_LEVELS),
        differences=comparison.differences(runs),
        drawing=_wide_and_narrow(figures.overlay, runs, _COLUMN),
    )


def write_sensitivity(found: Sensitivity, title: str, path: str | Path) -> int:
    """Write a page that shows which layers bear pruning, whole or not at all, and return its bytes.

    Raises RunError if the file cannot be written.
    """
    scale = wording.scale_of(found.metric, found.baseline)
    heading = ["layer", "weights", *map(wording.share, found.sparsities)]
    rows = [
        [name, wording.whole(found.sizes[name]), *map(scale.value, values)] for name, values in found.layers.items()
    ]
    text = _page(
        "sensitivity.html.j2",
        scale,
        kind="sensitivity",
        title=title,
        metric=found.metric,
        baseline=scale.value(found.baseline),
        heading=heading,
        rows=rows,
        drawing=_wide_and_narrow(figures.sensitivity_map, found, _COLUMN),
    )
    return _write(text, path)


def _page(template: str, scale: wording.Scale, **values: Any) -> str:
    style = Markup(_source("style.css"))
    return _environment(scale).get_template(template).render(style=style, **values)


def _source(name: str) -> str:
    return files("isogrid.report").joinpath(name).read_text(encoding="utf-8")


def _write(text: str, path: str | Path) -> int:
    content = text.encode("utf-8")
    write_atomically(Path(path), content)
    return len(content)


def _wide_and_narrow(draw: Callable[..., str], subject: object, wide: int) -> Markup:
    return Markup(f'<div class="wide">{draw(subject, wide)}</div><div class="narrow">{draw(subject, _NARROW)}</div>')


def _environment(scale: wording.Scale) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    written: dict[str, Callable[..., str]] = {
        "share": wording.share,
        "size": size,
        "whole": wording.whole,
        "counted": counted,
        "operations": operations,
        "more": wording.more,
        "times": wording.times,
        "duration": wording.duration,
        "value": scale.value,
        "difference": scale.difference,
        "allowance": scale.allowance,
        "change": scale.change,
    }
    for name, write in written.items():
        environment.filters[name] = lambda *arguments, write=write: typographic(write(*arguments))
    environment.filters["typographic"] = typographic
    environment.filters["sentence_case"] = _sentence_case
    environment.filters["one_line"] = wording.one_line
    environment.filters["breakable"] = _breakable
    return environment


def _drawings(data: ReportData) -> dict[str, Any]:
    """Return the figures that the data allows, those that fill a column drawn for wide and for narrow screens."""

    def both(draw: Callable[..., str], subject: object, wide: int = _COLUMN) -> Markup:
        return _wide_and_narrow(draw, subject, wide)

    drawings: dict[str, Any] = {
        "verdict": both(figures.drop_interval, data, _HALF) if data.verdict.state != "untested" else None,
        "sparsity": both(figures.sparsity_curve, data, _HALF),
        "bytes": both(figures.bytes_curve, data, _HALF),
        "below": figures.below(data),
        "gap": None,
    }
    if data.dense.train_metric is not None or data.balance.train_metric is not None:
        drawings["gap"] = both(figures.generalisation, data)
    if data.layers:
        drawings["layers"] = both(figures.layer_sparsity, data)
        drawings["histograms"] = [
            Markup(figures.weight_histogram(layer, f"weights-{index}", _TILE))
            for index, layer in enumerate(data.layers)
        ]
    if data.activations:
        drawings["activations"] = both(figures.activation_sparsity, data)
    if data.inputs is not None:
        drawings["inputs"] = both(figures.input_use, data.inputs)
    if data.classes:
        drawings["classes"] = both(figures.class_metric, data)
    if data.changes is not None:
        images = [example.image for example in data.changes.examples]
        drawings["examples"] = [None if image is None else figures.thumbnail(image) for image in images]
    if data.history:
        drawings["history"] = both(figures.training_history, data)
    return drawings
