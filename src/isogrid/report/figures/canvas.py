"""The drawing surface that all figures share: a size in pixels, the theme's inks, and inline SVG as the result.

Figures are drawn in sentinel colours, one for each ink, which become ``var(--name)`` in the SVG: one drawing serves the
light theme, the dark theme and print.  Letters stay text, in the page's own font.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from isogrid.errors import MissingDependencyError

try:
    import matplotlib.style
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingDependencyError(
        'The report\'s figures need matplotlib, which is not installed: pip install "isogrid[report]".'
    ) from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEAT_LEVELS = 8

_INK_NAMES = (
    *(
        "paper",
        "ink",
        "muted",
        "rule",
        "band",
        "accent",
        "dense",
        "fp32",
        "fp16",
        "int8",
    ),
    *(f"heat-{level}" for level in range(HEAT_LEVELS)),
)
# No colour map or default of matplotlib yields these values, so each stands for its ink alone.
_SENTINELS = {name: f"#fe01{index:02x}" for index, name in enumerate(_INK_NAMES)}
_NAMES = {sentinel: name for name, sentinel in _SENTINELS.items()}

# Sizes of letters in CSS pixels: what is read first, and scales and notes.
TEXT = 13
SMALL = 12

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "isogrid",
    # Layer and class names are the user's: a dollar sign in them is no formula.
    "text.parse_math": False,
    "text.color": _SENTINELS["ink"],
    "font.size": TEXT,
    "axes.facecolor": "none",
    "axes.edgecolor": _SENTINELS["muted"],
    "axes.labelcolor": _SENTINELS["muted"],
    "axes.labelsize": SMALL,
    "axes.linewidth": 1.0,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.unicode_minus": True,
    "grid.color": _SENTINELS["rule"],
    "grid.linewidth": 1.0,
    "xtick.color": _SENTINELS["muted"],
    "ytick.color": _SENTINELS["muted"],
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "lines.solid_capstyle": "round",
}


def ink(name: str) -> str:
    """Return the colour to draw with where the page shall use its custom property ``--name``.

    >>> ink("paper")
    '#fe0100'
    """
    return _SENTINELS[name]


class Canvas:
    """A figure of ``width`` x ``height`` CSS pixels; made by ``canvas``."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        # At 72 dots an inch a point is a pixel, so font sizes and offsets are CSS pixels too.
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=72)

    def axes(self, left: float, top: float, right: float, bottom: float) -> Axes:
        """Add axes whose edges lie these many pixels inside the figure's."""
        box = (
            left / self.width,
            bottom / self.height,
            (self.width - left - right) / self.width,
            (self.height - top - bottom) / self.height,
        )
        return self.figure.add_axes(box)

    def heading(self, text: str) -> None:
        """Write ``text`` in the upper left corner, where it names what the vertical axis shows."""
        place = (6 / self.width, 1 - 6 / self.height)
        self.figure.text(*place, text, ha="left", va="top", color=ink("muted"), fontsize=SMALL)

    def svg(self, key: str, label: str, tips: Mapping[str, Sequence[str]] | None = None) -> str:
        """Return the drawing as an ``<svg>`` element for an HTML page.

        ``key`` makes its ids unique on the page, ``label`` is what a screen reader says, and ``tips`` gives, for the
        gid of a scatter, the text that its markers show when pointed at.
        """
        buffer = io.StringIO()
        with warnings.catch_warnings():
            # The browser has the glyphs: the font matplotlib measures with need not.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
            undated = {"Date": None, "Creator": None, "Format": None, "Type": None}
            self.figure.savefig(buffer, format="svg", metadata=undated)
        return _inline(buffer.getvalue(), key, label, tips or {}, self.width, self.height)


def note(
    axes: Axes,
    text: str,
    place: tuple[float, float],
    shift: tuple[float, float] = (0, 0),
    *,
    space: tuple[str, str] = ("data", "data"),
    colour: str = "muted",
    **style: Any,
) -> None:
    """Write small letters ``shift`` pixels (right, up) of ``place``, each of whose parts is in one ``space``."""
    style = {"fontsize": SMALL, "color": ink(colour), "annotation_clip": False, **style}
    axes.annotate(text, place, xycoords=space, xytext=shift, textcoords="offset points", **style)


@contextmanager
def canvas(width: int, height: int) -> Iterator[Canvas]:
    """Give a canvas, and matplotlib the page's style for as long as it is drawn on, whatever the user configured.

    >>> with canvas(200, 100) as sheet:
    ...     line, = sheet.axes(10, 10, 10, 10).plot([0, 1], color=ink("accent"))
    ...     drawing = sheet.svg("example", "A rising line")
    >>> drawing.startswith('<svg'), "var(--accent)" in drawing
    (True, True)
    """
    with matplotlib.style.context(["default", _STYLE]):
        yield Canvas(width, height)


def _inline(
    svg: str,
    key: str,
    label: str,
    tips: Mapping[str, Sequence[str]],
    width: int,
    height: int,
) -> str:
    body = svg[svg.index("<g id=") : svg.rindex("</svg>")]
    for gid, texts in tips.items():
        body = _with_tips(body, gid, texts)
    body = re.sub(r"<[a-z][^>]*>", lambda tag: _page_tag(tag[0], key), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    # Rounding to a tenth of a pixel halves the page.
    body = re.sub(r'(?<= (?:d|x|y)=")[^"]*', lambda numbers: _rounded(numbers[0]), body)
    head = f'<svg viewBox="0 0 {width} {height}" style="max-width: {width}px" role="img" aria-label="{escape(label)}">'
    return f"{head}\n{body}</svg>"


def _with_tips(body: str, gid: str, texts: Sequence[str]) -> str:
    start = body.index(f'<g id="{gid}">')
    remaining = iter(texts)
    marked = re.sub(
        r"<use ([^>]*)/>",
        lambda use: f"<use {use[1]}><title>{escape(next(remaining))}</title></use>",
        body[start:],
        count=len(texts),
    )
    return body[:start] + marked


def _page_tag(tag: str, key: str) -> str:
    """Fit one tag of matplotlib's to the page: its inks, its font, and ids that no other figure has."""
    tag = re.sub(r"#fe01[0-9a-f]{2}", lambda colour: f"var(--{_NAMES[colour[0]]})", tag)
    tag = re.sub(r" font-family: [^;\"]*;?", "", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    return re.sub(
        r'(id="|xlink:href="#|url\(#)',
        lambda start: f"{start[0].removeprefix('xlink:')}{key}-",
        tag,
    )


def _rounded(numbers: str) -> str:
    return re.sub(
        r"-?\d+\.\d+",
        lambda number: f"{float(number[0]):.1f}".removesuffix(".0"),
        numbers,
    )
