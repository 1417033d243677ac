"""Plots as inline SVG: text stays text, and colours follow the page.

matplotlib draws in the light theme's colours. Each colour then becomes a CSS variable, so that a
plot follows the reader's light or dark theme. The bytes depend only on the numbers and on
matplotlib's version: no date, no random ids, no layout by font metrics.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil, floor
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from si.report.palette import COLOURS

MARKERS = "osD^vPX*"
WIDTH, HEIGHT = 390, 262  # CSS pixels at full size: two or three fit beside one another

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "si-ctl",
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 11,
    "text.parse_math": False,
    "path.simplify": True,
    "axes.edgecolor": COLOURS["grid"][0],
    "axes.labelcolor": COLOURS["soft"][0],
    "axes.titlesize": 12,
    "axes.titlecolor": COLOURS["ink"][0],
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": COLOURS["soft"][0],
    "ytick.color": COLOURS["soft"][0],
    "grid.color": COLOURS["grid"][0],
    "text.color": COLOURS["ink"][0],
}


class Line(NamedTuple):
    """A series: its label, a value (or None) for each x, its colour's name, and perhaps an
    interval (low, high) around each value."""

    label: str
    values: Sequence[float | None]
    colour: str
    band: Sequence[tuple[float, float] | None] = ()


class Plot(NamedTuple):
    """A plot with a sentence on what to look for and one on what this run shows."""

    svg: Markup
    look: str = ""
    here: str = ""


def lines(
    name: str,
    title: str,
    xs: Sequence[float],
    series: Sequence[Line],
    share: bool = True,
    xlabel: str = "iteration",
    marks: Mapping[str, int] | None = None,
    points: bool = True,
    close: bool = False,
) -> str:
    """Lines with their labels at their ends.

    Args:
        name: prefix of the element ids; unique on the page.
        share: values are shares (0 to 1), shown as percent on an axis from 0 to 1.
        marks: label of a series -> index of a point to ring (the best iteration).
        points: draw a marker at each value.
        close: an axis of shares around the values instead of from 0.
    """
    with _drawing():
        figure, axes = _axes(title, right=0.84)
        ends = []
        for number, (label, values, colour, band) in enumerate(series):
            known = [(x, y) for x, y in zip(xs, values, strict=True) if y is not None]
            if not known:
                continue
            paint = COLOURS[colour][0]
            sure = [(x, *ends_) for x, ends_ in zip(xs, band, strict=False) if ends_ is not None]
            if sure:
                axes.fill_between(*zip(*sure, strict=True), color=paint, alpha=0.14, lw=0)
            marker = MARKERS[number % len(MARKERS)] if points else None
            # Thinner and thinner, so that equal lines show beneath one another.
            width = 1.6 + 1.6 * (len(series) - 1 - number) / len(series)
            axes.plot(
                *zip(*known, strict=True), color=paint, marker=marker, ms=4, lw=width, clip_on=False
            )
            ends.append((known[-1][1], label, _text(colour)))
            if marks and label in marks:
                best = marks[label]
                axes.plot(xs[best], values[best], "o", ms=11, mfc="none", mec=paint, mew=1.4)
        if share and close:
            _around(axes, series)
        elif share:
            _percent(
                axes, max((value for line in series for value in line.values if value), default=1)
            )
        elif ends:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(xlabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        _label_ends(axes, ends)
        return _svg(figure, name, title)


def stacked(
    name: str,
    title: str,
    xs: Sequence[int],
    layers: Sequence[Line],
    share: bool = True,
    xlabel: str = "iteration",
) -> str:
    """Stacked bars, one per x, the first layer at the bottom."""
    with _drawing():
        figure, axes = _axes(title, right=0.84 if share else 0.97)
        bottom = [0.0] * len(xs)
        ends = []
        for label, values, colour, _ in layers:
            heights = [value or 0.0 for value in values]
            paint = COLOURS[colour][0]
            axes.bar(xs, heights, 0.72, bottom, color=paint, edgecolor=COLOURS["card"][0], lw=0.8)
            if heights and heights[-1] > 0.004 and share:
                ends.append((bottom[-1] + heights[-1] / 2, label, _text(colour)))
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        if share:
            _percent(axes)
        else:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xlabel(xlabel)
        axes.set_xticks(xs)
        _label_ends(axes, ends)
        return _svg(figure, name, title)


def bars(
    name: str, title: str, groups: Sequence[str], series: Sequence[Line], share: bool = False
) -> str:
    """Grouped bars; colours distinguish the series, and their labels go into a legend."""
    with _drawing():
        figure, axes = _axes(title, right=0.97)
        width = 0.8 / max(1, len(series))
        for number, (_, values, colour, _) in enumerate(series):
            places = [i - 0.4 + width * (number + 0.5) for i in range(len(groups))]
            heights = [value or 0.0 for value in values]
            axes.bar(places, heights, width * 0.92, color=COLOURS[colour][0], edgecolor="none")
        if share:
            _percent(axes)
        axes.set_xticks(range(len(groups)), groups)
        return _svg(figure, name, title)


def spans(
    name: str, title: str, rows: Sequence[tuple[str, float, tuple[float, float], str]]
) -> str:
    """Differences of shares with their intervals, one below the other, around a line at zero.

    Args:
        rows: label, value, (low, high) and the name of a colour.
    """
    with _drawing():
        figure, axes = _axes(title, right=0.97)
        for place, (_, value, (low, high), colour) in enumerate(rows):
            paint = COLOURS[colour][0]
            axes.plot([low, high], [place, place], color=paint, lw=2.4, solid_capstyle="butt")
            axes.plot([value], [place], "o", ms=6.5, color=paint)
        axes.axvline(0, color=COLOURS["soft"][0], lw=1)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", lw=0.8)
        axes.set_yticks(range(len(rows)), [row[0] for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        widest = max(abs(end) for row in rows for end in row[2]) or 0.01
        axes.set_xlim(-1.08 * widest, 1.08 * widest)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, symmetric=True))
        axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:+.3g}".replace("-", "−"))
        axes.set_xlabel("points")
        return _svg(figure, name, title)


@contextmanager
def _drawing() -> Iterator[None]:
    """Our settings on top of matplotlib's defaults, independent of this machine's matplotlibrc."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def _axes(title: str, right: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), facecolor="none")
    axes = figure.add_axes((0.14, 0.175, right - 0.14, 0.685), facecolor="none")
    axes.set_title(title, pad=12, fontweight="bold")
    axes.grid(axis="y", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    return figure, axes


def _text(colour: str) -> str:
    """The colour of a label that belongs to a line or bar of this colour."""
    return COLOURS.get(f"{colour}-text", COLOURS[colour])[0]


def _percent(axes: Any, highest: float = 1.0) -> None:
    """An axis from 0 to the smallest of 10, 20, 50 and 100 percent that holds all values."""
    top = next((top for top in (0.1, 0.2, 0.5) if highest < 0.95 * top), 1.0)
    axes.set_ylim(0, 1.02 * top)
    axes.set_yticks([top * fifth / 5 for fifth in range(6)])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def _around(axes: Any, series: Sequence[Line]) -> None:
    """An axis over the values and their bands, of at least a fifth and whole tenths."""
    values = [value for line in series for value in line.values if value is not None]
    values += [end for line in series for band in line.band if band for end in band]
    tenths = [10 * value for value in values] or [0.0, 10.0]
    low, high = max(0, floor(min(tenths) - 0.2)), min(10, ceil(max(tenths) + 0.2))
    while high - low < 2:
        low, high = max(0, low - 1), min(10, high + (low == 0))
    axes.set_ylim(low / 10, high / 10)
    step = 5 if high - low <= 2 else 10 if high - low <= 6 else 20
    axes.set_yticks([tick / 100 for tick in range(10 * low, 10 * high + 1, step)])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def _label_ends(axes: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Labels to the right of the plot, each as near to its line's end as the others allow."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.068
    places: list[float] = []
    for y, *_ in sorted(ends):
        places.append(max(y, places[-1] + gap) if places else y)
    if places and places[-1] > high:  # pushed out at the top: push back down
        places[-1] = high
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - gap)
    for place, (_, label, paint) in zip(places, sorted(ends), strict=True):
        axes.annotate(
            label,
            (1.02, place),
            xycoords=("axes fraction", "data"),
            color=paint,
            va="center",
            fontsize=10,
            fontweight="bold",
            annotation_clip=False,
        )


_VARIABLE = {light: f"var(--{name})" for name, (light, _) in COLOURS.items()}
_ID = re.compile(r'(\bid="|url\(#|xlink:href="#)')
_SIZE = re.compile(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>')


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an `<svg>` element; ids get the figure's name, as many share the page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    for light, variable in _VARIABLE.items():
        text = text.replace(light, variable)
    text = _ID.sub(rf"\g<1>{name}-", text)
    box = _SIZE.search(text)
    assert box is not None
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box[1]}" role="img" aria-labelledby="{name}-title">'
        f'<title id="{name}-title">{_escape(title)}</title>'
    )
    return opening + text[box.end() :].strip()


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
