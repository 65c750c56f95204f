"""A radar plot: an axis for each category, a line for each run."""

from collections.abc import Mapping, Sequence
from math import pi
from typing import TYPE_CHECKING

from evalkit.report.plots.plot import BLUE, GREEN, INK, ORANGE, RULE, SMALL, Plot, clipped

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes

STYLES = ((BLUE, "o", "-"), (ORANGE, "D", "--"), (GREEN, "s", "-."), (INK, "^", ":"))
MOST = len(STYLES)  # runs that can be told apart


def radar_plot(
    name: str, title: str, alt: str, categories: Sequence[str], runs: Mapping[str, Sequence[float | None]], scale: tuple[float, float]
) -> Plot:
    """The first MOST runs; a category in which one has no figure is passed over."""
    angles = [2 * pi * i / len(categories) for i in range(len(categories))]
    low, high = scale

    def paint(figure: "Figure") -> None:
        axes: PolarAxes = figure.add_subplot(projection="polar")  # type: ignore[assignment]
        axes.set_theta_zero_location("N")
        axes.set_theta_direction(-1)
        for (run, values), (color, marker, line) in zip(runs.items(), STYLES, strict=False):
            points = [(angle, value) for angle, value in zip(angles, values, strict=True) if value is not None]
            closed = [*points, points[0]] if len(points) > 2 else points
            axes.plot(
                *zip(*closed, strict=True), color=color, marker=marker, linestyle=line, linewidth=1.2, markersize=3.5, label=clipped(run)
            )
            if len(runs) == 1:
                axes.fill(*zip(*closed, strict=True), color=color, alpha=0.12)
        axes.set_ylim(min(0, low), high)
        ticks = [high * fifth / 5 for fifth in range(1, 6)]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=SMALL)
        axes.set_rlabel_position(180 / len(categories))
        axes.set_xticks(angles, categories)
        axes.tick_params(axis="x", pad=2)
        axes.grid(color=RULE, linewidth=0.5)
        axes.spines["polar"].set_color(RULE)
        figure.legend(loc="outside lower center")  # one name per line: runs have long ones

    return Plot(name, title, alt, 3.0 + 0.15 * min(MOST, len(runs)), paint)
