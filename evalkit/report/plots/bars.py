"""Bars with their intervals, and published figures as lines across them: a panel for each run, a group of bars for each category."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from evalkit.report.plots.plot import BLUE, GREEN, GREY, HEADING, INK, ORANGE, PAPER, SMALL, Plot, bare, clipped
from evalkit.stats.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = ((BLUE, ""), (ORANGE, "///"), (GREEN, "..."), (INK, "xxx"))  # those of later series repeat them
UNSURE = (GREY, "///")


@dataclass(frozen=True, slots=True)
class BarPanel:
    """One run: a series' figures by category (None: no such figure), what is published, and whether the figures are the benchmark's."""

    title: str
    series: Mapping[str, Sequence[Estimate | None]]
    published: Sequence[float | None] = ()
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Axis:
    """The scores' axis; `scale` is what a 1 of a figure is on it."""

    label: str
    bottom: float
    top: float
    scale: float = 1.0


def bar_plot(name: str, title: str, alt: str, categories: Sequence[str], panels: Sequence[BarPanel], axis: Axis) -> Plot:
    """The panels below each other. A category "all" stands apart from the others."""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for each, panel in zip(axes, panels, strict=True):
            _paint_panel(each, panel, axis)
            if categories[-1] == "all":
                each.axvline(len(categories) - 1.5, color=GREY, linewidth=0.6, linestyle=":")
            each.set_title(clipped(panel.title), loc="left", fontsize=HEADING, fontweight="bold")
        turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if len(categories) > 4 else {}
        axes[-1].set_xticks(range(len(categories)), categories, **turned)
        handles = _legend(panels)
        figure.legend(handles=handles, loc="outside lower center", ncols=1 if len(handles) > 2 else 2)

    return Plot(name, title, alt, 0.7 + 1.5 * len(panels), paint)


def _paint_panel(axes: "Axes", panel: BarPanel, axis: Axis) -> None:
    bare(axes, "y")
    width = 0.8 / len(panel.series)
    for k, (style, figures) in enumerate(zip(cycle(STYLES), panel.series.values(), strict=False)):
        color, hatch = style if panel.sure else UNSURE
        held = [(x + width * (k - (len(panel.series) - 1) / 2), f) for x, f in enumerate(figures) if f]
        if not held:
            continue
        places, values = [place for place, _ in held], [axis.scale * f.value for _, f in held]
        axes.bar(places, values, 0.95 * width, color=color, hatch=hatch, edgecolor=PAPER, linewidth=0.5, zorder=2)
        low = [max(0.0, value - max(axis.bottom, axis.scale * f.ci95[0])) for value, (_, f) in zip(values, held, strict=True)]
        high = [max(0.0, min(axis.top, axis.scale * f.ci95[1]) - value) for value, (_, f) in zip(values, held, strict=True)]
        axes.errorbar(places, values, [low, high], fmt="none", ecolor=INK, elinewidth=0.7, capsize=1.5, capthick=0.7, zorder=3)
    for x, value in enumerate(panel.published):
        if value is not None:
            axes.plot([x - 0.45, x + 0.45], [value, value], color=INK, linewidth=1.4, zorder=4)
    axes.set_ylim(axis.bottom, axis.top)
    axes.set_ylabel(axis.label)
    axes.tick_params(labelsize=SMALL)


def _legend(panels: Sequence[BarPanel]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if any(value is not None for panel in panels for value in panel.published):
        handles.append(Line2D([], [], color=INK, linewidth=1.4, label="published"))
    names = list(dict.fromkeys(name for panel in panels if panel.sure for name in panel.series))
    handles += [Patch(facecolor=color, hatch=hatch, edgecolor=PAPER, label=name) for (color, hatch), name in zip(cycle(STYLES), names)]
    if any(not panel.sure for panel in panels):
        handles.append(Patch(facecolor=GREY, hatch=UNSURE[1], edgecolor=PAPER, label="measured in part: not comparable"))
    return handles
