"""A heat map: panels of rows, and the same columns in each."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from evalkit.report.plots.plot import HEADING, INK, PAPER, SMALL, Plot, clipped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT = 0.5  # of the colour map: lighter cells have dark text
DARK_TEXT, LIGHT_TEXT = "#101010", "#ffffff"  # independent of the page's theme, as the cells are
ROW, TITLE = 0.118, 0.2  # inches
UPRIGHT, LONGEST = 4, 20  # characters of a column's name: longer ones are turned, and wrapped
CHARACTER = 0.05  # inches, about

Cell = float | str  # a score of 100, or what stands in the place of one
Panels = Mapping[str, Mapping[str, Sequence[Cell]]]  # title -> row -> a cell per column


def heat_map(name: str, title: str, alt: str, columns: Sequence[str], panels: Panels) -> Plot:
    """Panels below each other; one without a title has none."""
    wrapped = [wrap(clipped(column), LONGEST) for column in columns]
    longest = max(len(line) for lines in wrapped for line in lines)
    turned = longest > UPRIGHT
    head = CHARACTER * longest if turned else 0.15
    heads = ["\n".join(lines) for lines in wrapped]

    def paint(figure: "Figure") -> None:
        ratios = [len(rows) for rows in panels.values()]
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=ratios)[:, 0]
        for i, (axis, (panel, rows)) in enumerate(zip(axes, panels.items(), strict=True)):
            _paint_panel(axis, list(rows.values()))
            axis.set_yticks(range(len(rows)), list(rows), fontsize=SMALL)
            axis.set_xticks(range(len(columns)), heads if i == 0 else [""] * len(columns), fontsize=SMALL, rotation=90 if turned else 0)
            if panel:
                axis.set_title(panel, loc="left", fontsize=HEADING, fontweight="bold")

    titles = sum(TITLE for panel in panels if panel)
    return Plot(name, title, alt, 0.15 + head + titles + ROW * sum(len(rows) for rows in panels.values()), paint)


def _paint_panel(axes: "Axes", rows: Sequence[Sequence[Cell]]) -> None:
    from matplotlib import colormaps

    shades = colormaps["cividis"]  # uniform in lightness, so it needs no colour vision
    grid = [[float("nan") if isinstance(cell, str) else cell for cell in row] for row in rows]
    # cells as shapes instead of an image: the page allows no images, and shapes are sharp at any size
    edges = [[i - 0.5 for i in range(n + 1)] for n in (len(grid[0]), len(grid))]
    axes.pcolormesh(*edges, grid, cmap=shades, vmin=0, vmax=100, edgecolors=PAPER, linewidth=0.5)
    axes.invert_yaxis()
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            text = cell if isinstance(cell, str) else f"{cell:.0f}"
            color = INK if isinstance(cell, str) else DARK_TEXT if cell / 100 > LIGHT else LIGHT_TEXT
            axes.text(x, y, text, ha="center", va="center", fontsize=SMALL, color=color)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
