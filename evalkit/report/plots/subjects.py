"""MMLU by subject as a heat map: one row per subject, one column per run, one panel per category."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.record.schema import Run, task_of
from evalkit.report.plots.plot import INK, PAPER, Plot
from evalkit.tasks.registry import resolve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TASK = "mmlu"
MOST_RUNS = 6  # more columns are too narrow for their figures
LIGHT = 0.5  # of the colour map: lighter cells have dark text
DARK_TEXT, LIGHT_TEXT = "#101010", "#ffffff"  # independent of the page's theme, as the cells are


def subject_plot(runs: Sequence[Run]) -> Plot | None:
    """The first runs with MMLU by subject; None if there is none."""
    held = [(run, key, entry) for run in runs for key, entry in run.tasks.items() if task_of(key) == TASK]
    shown = [(run, key, entry) for run, key, entry in held if entry.subjects][:MOST_RUNS]
    if not shown:
        return None
    names = [run.name + (f" {key}" if key != TASK else "") for run, key, _ in shown]
    scores = [{s: 100 * m[entry.headline].value for s, m in entry.subjects.items()} for _, _, entry in shown]
    task = resolve(TASK)
    panels: dict[str, list[str]] = {}
    for subject in sorted(set().union(*scores)):
        panels.setdefault(task.category(subject) or "other", []).append(subject)
    ordered = sorted(panels.items(), key=lambda panel: (-len(panel[1]), panel[0]))
    left, right = ordered[::3] + ordered[3:3], ordered[1:3]
    columns = [column for column in (left, right) if column]

    def paint(figure: "Figure") -> None:
        rows = [sum(len(subjects) + 1.6 for _, subjects in column) for column in columns]
        outer = figure.add_gridspec(1, len(columns))
        for at, column in enumerate(columns):
            heights = [len(subjects) for _, subjects in column]
            spare = max(rows) - rows[at]
            inner = outer[at].subgridspec(len(column) + (spare > 0), 1, height_ratios=[*heights, spare][: len(column) + (spare > 0)])
            for i, (category, subjects) in enumerate(column):
                axes = figure.add_subplot(inner[i])
                _paint_panel(axes, [[score.get(subject) for score in scores] for subject in subjects])
                axes.set_yticks(range(len(subjects)), [subject.replace("_", " ") for subject in subjects], fontsize=8)
                axes.set_title(category.replace("_", " "), loc="left", fontsize=9.5, fontweight="bold")
                axes.set_xticks(range(len(names)), [str(n + 1) for n in range(len(names))] if len(names) > 1 else [""], fontsize=8)
        if len(names) > 1:
            figure.supxlabel(" · ".join(f"{n + 1}: {name}" for n, name in enumerate(names)), fontsize=8)

    tall = max(sum(len(subjects) + 1.6 for _, subjects in column) for column in columns)
    worst = sorted((value, subject) for subject, value in scores[0].items())
    alt = (
        f"Accuracy by subject of {', '.join(names)}. In {names[0]} the lowest is {worst[0][1].replace('_', ' ')} at {worst[0][0]:.0f}, "
        f"the highest {worst[-1][1].replace('_', ' ')} at {worst[-1][0]:.0f}."
    )
    return Plot("subjects", f"MMLU by subject: {', '.join(names)}", alt, (8.4, 0.7 + 0.205 * tall), paint)


def _paint_panel(axes: "Axes", scores: list[list[float | None]]) -> None:
    from matplotlib import colormaps

    shades = colormaps["cividis"]  # uniform in lightness, so it needs no colour vision
    grid = [[float("nan") if value is None else value for value in row] for row in scores]
    # cells as shapes instead of an image: the page allows no images, and shapes are sharp at any size
    edges = [[i - 0.5 for i in range(n + 1)] for n in (len(grid[0]), len(grid))]
    axes.pcolormesh(*edges, grid, cmap=shades, vmin=0, vmax=100, edgecolors=PAPER, linewidth=0.6)
    axes.invert_yaxis()
    for y, row in enumerate(scores):
        for x, value in enumerate(row):
            text = "-" if value is None else f"{value:.0f}"
            color = INK if value is None else DARK_TEXT if value / 100 > LIGHT else LIGHT_TEXT
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color=color)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
