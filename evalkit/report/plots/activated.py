"""The blog's argument in one plot: activated parameters against a score."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.record.schema import Run
from evalkit.report.lines import best, lines
from evalkit.report.plots.plot import BLUE, GREEN, INK, ORANGE, SMALL, Plot, bare, clipped
from evalkit.report.published import PublishedTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from evalkit.report.counted import Counted
    from evalkit.report.lines import Line

TASK = "mmlu"
DENSE, SPARSE = ("o", BLUE, "dense"), ("D", ORANGE, "mixture of experts")
BILLION = 1e9
NEAR = (2.0, 5.0)  # billions of parameters, points of score


def activated_plot(counted: Sequence["Counted"], table: PublishedTable, runs: Sequence[Run] = ()) -> Plot | None:
    """Published scores, and comparable measured ones, over activated parameters; None if no counted model has a published score."""
    points = [(c, c.row.cells[TASK].value) for c in counted if c.row and TASK in c.row.cells]
    column = table.by_key.get(TASK)
    if not points or column is None:
        return None
    measured = [line for line in best(lines(table, runs)).values() if line.task == TASK and line.comparable]

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        bare(axes, "both")
        for marker, color, label in (DENSE, SPARSE):
            kind = [(c, score) for c, score in points if _is_sparse(c) == (label == SPARSE[2])]
            if kind:
                x, y = [c.counts["activated"] / BILLION for c, _ in kind], [score for _, score in kind]
                axes.scatter(
                    x, y, marker=marker, facecolors="none", edgecolors=color, linewidths=1.1, label=f"{label}, published", s=26, zorder=3
                )
        for c, score in points:
            crowded = any(_crowds(other, (c, score)) for other in points)
            (place, ha), spot = ((-6, -2), "right") if crowded else ((0, 6), "center"), (c.counts["activated"] / BILLION, score)
            axes.annotate(c.model, spot, place, textcoords="offset points", ha=ha, fontsize=SMALL)
        _paint_measured(axes, measured, counted)
        axes.margins(0.25, 0.2)
        axes.set_xlim(left=0)
        axes.set_xlabel("activated parameters, billions (counted)")
        axes.set_ylabel(f"{column.title} (protocols differ)")
        axes.legend(loc="lower right")

    told = [f"{c.model}: {c.counts['activated'] / BILLION:.1f} billion, published {score:g}" for c, score in points]
    told += [f"{line.model}: measured {line.decimal(line.measured.value)}" for line in measured if line.measured]
    alt = f"Activated parameters against {column.title}. " + "; ".join(told)
    return Plot("activated", f"Activated parameters against {column.title}; published: {table.source}", alt, 2.6, paint)


def _crowds(other: tuple["Counted", float], point: tuple["Counted", float]) -> bool:
    """Whether another point is just above this one, where its name would be: it then stands to the left."""
    apart = abs(other[0].counts["activated"] - point[0].counts["activated"]) / BILLION
    return apart < NEAR[0] and 0 < other[1] - point[1] < NEAR[1]


def _paint_measured(axes: "Axes", measured: Sequence["Line"], counted: Sequence["Counted"]) -> None:
    known = {c.row.model: c.counts["activated"] for c in counted if c.row}
    label = "measured, 95% interval"
    for line in measured:
        parameters = line.run.model.parameters if line.run else None
        activated = known.get(line.model) or (parameters.activated if parameters else None)
        if activated is None or line.measured is None:
            continue
        x, figure = activated / BILLION, line.measured
        axes.plot([x, x], [figure.low, figure.high], "-", color=GREEN, linewidth=1.6, zorder=2)
        axes.plot(x, figure.value, "_", color=GREEN, markersize=8, markeredgewidth=1.6, linestyle="none", label=label, zorder=4)
        label = "_"  # one entry in the legend
        if line.model not in known:
            axes.annotate(
                clipped(line.model, 20), (x, figure.value), (0, -12), textcoords="offset points", ha="left", color=INK, fontsize=SMALL
            )


def _is_sparse(counted: "Counted") -> bool:
    return counted.counts["activated"] < counted.counts["total"]
