"""Scores with their intervals beside the published ones: one panel per benchmark, one row per model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.report.plots.plot import BLUE, GREY, INK, Plot, bare
from evalkit.report.published import PublishedTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from evalkit.report.lines import Line

ABOVE, BELOW, SPREAD = 0.14, 0.16, 0.24  # in a row, the published figure is above the middle, and measured ones below it


def score_plot(table: PublishedTable, found: Sequence["Line"]) -> Plot | None:
    """The plot of the quality table; None if it has no figure to show."""
    models = list(dict.fromkeys(line.model for line in found))
    columns = [c for c in table.columns if any(line.task == c.key and (line.cell or line.measured) for line in found)]
    if not columns:
        return None

    def paint(figure: "Figure") -> None:
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, column in zip(panels, columns, strict=True):
            bare(axes, "x")
            _paint_column(axes, [line for line in found if line.task == column.key], models)
            axes.set_title(column.title, fontsize=9.5, fontweight="bold")
            axes.set_xlabel(f"of {column.maximum:g}", fontsize=8)
            low, high = axes.get_xlim()
            margin = 0.12 * (high - low) or 1
            axes.set_xlim(max(0, low - margin), min(column.maximum, high + margin))
            axes.locator_params(axis="x", nbins=4)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(models)), models)
        panels[0].set_ylim(len(models) - 0.5, -0.5)
        _legend(figure, found)

    alt = f"{table.title}: " + "; ".join(text for line in found if (text := _words(line)))
    return Plot("scores", "Measured scores with 95% intervals, and the published ones", alt, (9.2, 1.5 + 0.42 * len(models)), paint)


def _paint_column(axes: "Axes", column: Sequence["Line"], models: Sequence[str]) -> None:
    for row, model in enumerate(models):
        here = [line for line in column if line.model == model]
        published = next((line.cell for line in here if line.cell), None)
        if published:
            axes.plot(published.value, row - ABOVE, "o", color=INK, markerfacecolor="none", markersize=7.5, markeredgewidth=1.3, zorder=3)
        measured = [(line, line.measured) for line in here if line.measured]
        for i, (line, figure) in enumerate(measured):
            y = row + BELOW + SPREAD * i / max(1, len(measured) - 1)
            color, marker = (BLUE, "D") if line.comparable else (GREY, "X")
            axes.plot([figure.low, figure.high], [y, y], "-", color=color, linewidth=2.2, solid_capstyle="butt", zorder=2)
            axes.plot(figure.value, y, marker, color=color, markersize=5, zorder=4)


def _legend(figure: "Figure", found: Sequence["Line"]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="o", color=INK, markerfacecolor="none", markersize=7.5, linestyle="none", label="published")]
    if any(line.comparable for line in found):
        handles.append(Line2D([], [], marker="D", color=BLUE, markersize=6, linewidth=2.2, label="measured, 95% interval"))
    if any(line.measured and not line.comparable for line in found):
        handles.append(Line2D([], [], marker="X", color=GREY, markersize=6, linewidth=2.2, label="not comparable: a sample, or in part"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _words(line: "Line") -> str:
    published = f"published {line.published}" if line.cell else ""
    measured = f"measured {line.decimal(line.measured.value)}" if line.measured else ""
    both = ", ".join(text for text in (published, measured) if text)
    return f"{line.model} {line.task} {both}" if both else ""
