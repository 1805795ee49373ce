"""The plots of the report, as SVG that belongs to its page: the page's fonts, and colours that follow its theme.

matplotlib draws; its colours are stand-ins that become the page's CSS variables, so that one drawing is right in
light, in dark and in print. Text stays text: it can be searched, read aloud and scaled.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stand-ins for the page's variables of these names.
INK, MUTED, GRID = "#0a0b01", "#0a0b02", "#0a0b03"
MAIN, OTHER, THIRD = "#0a0b04", "#0a0b05", "#0a0b06"
MEDIUM, HIGH, GOOD = "#0a0b07", "#0a0b08", "#0a0b09"
VARIABLES: Final = {
    INK: "ink", MUTED: "muted", GRID: "grid", MAIN: "main", OTHER: "other", THIRD: "third",
    MEDIUM: "medium", HIGH: "high", GOOD: "good",
}  # fmt: skip
_STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "churnwatch",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10.0,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
}


class Line(NamedTuple):
    """One line of a plot: how it is called, its points, its colour and whether it is dashed."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dashed: bool = False


class Example(NamedTuple):
    """The life of one customer for a time line, in days since the span's first: ``purchases``, the
    ``probability`` along the way as (day, value), and the days of ``warnings``."""

    purchases: Sequence[int]
    probability: Sequence[tuple[int, float]]
    warnings: Sequence[int]


@contextmanager
def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **more: Any
) -> Iterator[tuple[Figure, Any]]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, **more)


def _svg(figure: Figure, title: str) -> str:
    """The drawing as an element of a page. ``title`` is what it is read aloud as."""
    with mpl.rc_context(_STYLE):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    for stand_in, name in VARIABLES.items():
        text = text.replace(stand_in, f"var(--{name})")
    # The page sets the size; the drawing only its proportions.
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{_escaped(title)}" ', 1)
    return re.sub(r"\n\s*", "\n", text)


def calibration(bins: Sequence[tuple[int, float, float]], title: str) -> str:
    """Stated against happened, a dot for each tenth of the probabilities, larger for more customers."""
    with _figure(5.2, 4.2) as (figure, axes):
        axes.plot(
            [0, 1], [0, 1], color=MUTED, linestyle=(0, (2, 3)), linewidth=1.2, label="exactly as stated"
        )
        most = max((count for count, _, _ in bins), default=1)
        stated = [each[1] for each in bins]
        happened = [each[2] for each in bins]
        axes.plot(stated, happened, color=MAIN, linewidth=1.4)
        sizes = [25 + 230 * count / most for count, _, _ in bins]
        axes.scatter(
            stated, happened, s=sizes, color=MAIN, alpha=0.75, linewidth=0, label="what happened", zorder=3
        )
        _percent(axes, "stated probability of leaving", "of these really left")
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        legend = axes.legend(loc="upper left")
        for handle in legend.legend_handles[1:]:
            handle.set_sizes([60])
        return _svg(figure, title)


def lines(
    drawn: Sequence[Line],
    labels: tuple[str, str],
    title: str,
    *,
    percent: str = "xy",
    marks: Sequence[Line] = (),
    legend: str = "lower left",
) -> str:
    """Lines over each other, with single points (``marks``) on them. ``legend``: the corner that they leave free."""
    with _figure(5.2, 4.2) as (figure, axes):
        for line in drawn:
            style = (0, (4, 3)) if line.dashed else "-"
            axes.plot(line.x, line.y, color=line.colour, linestyle=style, label=line.name)
        for mark in marks:
            axes.scatter(mark.x, mark.y, color=mark.colour, s=70, zorder=4, label=mark.name, linewidth=0)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        if "x" in percent:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        if "y" in percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc=legend)
        return _svg(figure, title)


def weeks(mondays: Sequence[str], bands: Mapping[str, Sequence[float]], unit: str, title: str) -> str:
    """Bars over the weeks, one upon the other by band."""
    colours = {"medium": MEDIUM, "high": HIGH}
    with _figure(10.6, 3.0) as (figure, axes):
        place = range(len(mondays))
        below = [0.0] * len(mondays)
        for band, values in bands.items():
            axes.bar(
                place,
                values,
                bottom=below,
                width=0.78,
                color=colours.get(band, MAIN),
                label=band,
                linewidth=0,
            )
            below = [low + value for low, value in zip(below, values, strict=True)]
        _weeks(axes, mondays)
        axes.set_ylabel(unit)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(visible=False, axis="x")
        if len(bands) > 1:
            axes.legend(loc="upper right", ncols=len(bands))
        return _svg(figure, title)


def curves(found: Sequence[tuple[str, Sequence[float], Sequence[float]]], title: str) -> str:
    """What each input adds to the log-odds, side by side on one scale: (name, knots, effects)."""
    columns = 4
    rows = -(-len(found) // columns)
    with _figure(10.6, 1.95 * rows, rows, columns, sharey=True, squeeze=False) as (figure, grid):
        for axes in grid.flat[len(found) :]:
            axes.set_visible(False)
        for axes, (name, knots, effects) in zip(grid.flat, found, strict=False):
            axes.axhline(0.0, color=MUTED, linewidth=0.9)
            axes.plot(knots, effects, color=MAIN)
            axes.fill_between(knots, effects, 0.0, color=MAIN, alpha=0.13, linewidth=0)
            axes.set_title(name)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        for axes in grid[:, 0]:
            axes.set_ylabel("← stays   leaves →")
        return _svg(figure, title)


def time_line(example: Example, days: int, dates: Sequence[tuple[int, str]], title: str) -> str:
    """One customer: purchases as ticks, the probability as a line, the warning as a red flag."""
    with _figure(10.6, 1.45) as (figure, axes):
        run: list[tuple[int, float]] = []
        runs = [run]
        for day, value in example.probability:
            # After a purchase the score begins anew: no line across.
            if run and (
                any(run[-1][0] < bought <= day for bought in example.purchases) or day - run[-1][0] > 14
            ):
                run = []
                runs.append(run)
            run.append((day, value))
        for each in runs:
            axes.plot([day for day, _ in each], [value for _, value in each], color=MAIN, linewidth=1.6)
        axes.vlines(example.purchases, -0.02, 0.16, color=GOOD, linewidth=2.2)
        for day in example.warnings:
            axes.axvline(day, color=HIGH, linewidth=1.6)
            axes.scatter([day], [1.0], color=HIGH, marker="v", s=55, zorder=4, linewidth=0, clip_on=False)
        axes.set_xlim(-2, days + 2)
        axes.set_ylim(-0.03, 1.04)
        axes.set_yticks([0, 0.5, 1.0])
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xticks([day for day, _ in dates], [date for _, date in dates])
        axes.grid(visible=False, axis="x")
        return _svg(figure, title)


def _percent(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _weeks(axes: Axes, mondays: Sequence[str]) -> None:
    step = max(1, -(-len(mondays) // 10))
    shown = range(0, len(mondays), step)
    axes.set_xticks(list(shown), [mondays[place] for place in shown])
    axes.set_xlim(-0.7, len(mondays) - 0.3)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
