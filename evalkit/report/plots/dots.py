"""Scores with their intervals beside the published ones: a panel for each comparison, a row for each model or protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING

from evalkit.report.plots.plot import BLUE, GREY, HEADING, INK, RULE, SMALL, Plot, bare, clipped
from evalkit.report.verdict import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE = 0.17  # inches of one line of figures
HEAD = 0.52  # inches of a panel's title, ticks and unit
LONGEST_LABEL = 21  # characters
NUMBER = 21  # points from one column of numbers to the next, right of a panel


@dataclass(frozen=True, slots=True)
class DotRow:
    """What is published and measured for one label; a measured figure and whether it is the benchmark's."""

    label: str
    published: Sequence[float] = ()
    measured: Sequence[tuple[Measured, bool]] = ()

    @property
    def lines(self) -> int:
        """How many lines the row is high: its figures stand below each other, so that none hides another."""
        return max(len(self.wrapped), len(self.published), len(self.measured))

    @property
    def wrapped(self) -> list[str]:
        """The label in lines that leave room for the scores."""
        return [line for text in self.label.split("\n") for line in wrap(text, LONGEST_LABEL)] or [""]


@dataclass(frozen=True, slots=True)
class DotPanel:
    """Rows on one axis. `maximum` is the highest possible score, `decimals` those of a printed figure."""

    title: str
    rows: Sequence[DotRow]
    maximum: float = 100.0
    decimals: int = 1

    @property
    def lines(self) -> int:
        return sum(row.lines for row in self.rows)

    @property
    def limits(self) -> tuple[float, float]:
        """The scores shown: all figures and intervals, with some room, within the possible."""
        ends = [value for row in self.rows for value in row.published]
        ends += [end for row in self.rows for figure, _ in row.measured for end in (figure.low, figure.high)]
        low, high = min(ends), max(ends)
        room = max(0.08 * (high - low), 0.01 * self.maximum)
        return max(min(low, 0.0), low - room), min(max(high, self.maximum), high + room)


def dot_plot(name: str, title: str, alt: str, panels: Sequence[DotPanel]) -> Plot | None:
    """The panels below each other; None if there is none."""
    if not panels:
        return None

    def paint(figure: "Figure") -> None:
        ratios = [HEAD + LINE * panel.lines for panel in panels]
        rows = [row for panel in panels for row in panel.rows]
        for axes, panel in zip(figure.subplots(len(panels), 1, squeeze=False, height_ratios=ratios)[:, 0], panels, strict=True):
            _paint_panel(axes, panel, _columns(rows))
        _legend(figure, rows)

    return Plot(name, title, alt, 0.3 + sum(HEAD + LINE * panel.lines for panel in panels), paint)


def _paint_panel(axes: "Axes", panel: DotPanel, columns: Mapping[str, int]) -> None:
    bare(axes, "x")
    top, middles = 0, []
    for number, row in enumerate(panel.rows):
        if number % 2 == 0:
            axes.axhspan(top - 0.5, top + row.lines - 0.5, color=RULE, alpha=0.4, linewidth=0, zorder=0)
        middles.append(top + (row.lines - 1) / 2)
        y = top + (row.lines - len(row.published)) / 2
        for i, value in enumerate(row.published):
            axes.plot(value, y + i, "o", color=INK, markerfacecolor="none", markersize=6, markeredgewidth=1, zorder=4)
            _print(axes, columns["publ."], y + i, f"{value:.{panel.decimals}f}")
        y = top + (row.lines - len(row.measured)) / 2
        for i, (found, sure) in enumerate(row.measured):
            color, marker = (BLUE, "D") if sure else (GREY, "X")
            axes.plot([found.low, found.high], [y + i, y + i], "-", color=color, linewidth=1.6, solid_capstyle="butt", zorder=2)
            axes.plot(found.value, y + i, marker, color=color, markersize=3.6, markeredgewidth=0, zorder=3)
            _print(axes, columns["meas."], y + i, f"{found.value:.{panel.decimals}f}")
        top += row.lines
    axes.set_yticks(middles, ["\n".join(row.wrapped) for row in panel.rows], fontsize=SMALL)
    axes.set_ylim(top - 0.5, -0.5)
    axes.set_xlim(*panel.limits)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=SMALL, length=2)
    axes.spines["left"].set_visible(False)
    axes.set_title(" ", fontsize=HEADING)  # room for the title, which begins at the labels
    title = axes.annotate(
        clipped(panel.title), (0.01, 1), (0, 4), xycoords=("figure fraction", "axes fraction"), textcoords="offset points"
    )
    title.set(fontsize=HEADING, fontweight="bold", in_layout=False)
    axes.set_xlabel(f"of {panel.maximum:g}", fontsize=SMALL, labelpad=1)
    for words, end in columns.items():
        axes.annotate(words, (1, 1), (end, 3), xycoords="axes fraction", textcoords="offset points", fontsize=SMALL, ha="right")


def _columns(rows: Sequence[DotRow]) -> dict[str, int]:
    """The columns of numbers, and where each ends: as many as there are figures for."""
    held = {"publ.": any(row.published for row in rows), "meas.": any(row.measured for row in rows)}
    return {words: NUMBER * place for place, words in enumerate((words for words, any_ in held.items() if any_), 1)}


def _print(axes: "Axes", end: int, y: float, text: str) -> None:
    """A number right of the panel, on the line of its dot."""
    place = axes.get_yaxis_transform()
    axes.annotate(text, (1, y), (end, 0), xycoords=place, textcoords="offset points", fontsize=SMALL, ha="right", va="center")


def _legend(figure: "Figure", rows: Sequence[DotRow]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    if any(row.published for row in rows):
        handles.append(Line2D([], [], marker="o", color=INK, markerfacecolor="none", markersize=6, linestyle="none", label="published"))
    sures = {sure for row in rows for _, sure in row.measured}
    if True in sures:
        handles.append(Line2D([], [], marker="D", color=BLUE, markersize=3.6, linewidth=1.6, label="measured, 95% interval"))
    if False in sures:
        handles.append(Line2D([], [], marker="X", color=GREY, markersize=3.6, linewidth=1.6, label="not comparable"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
