"""How plots are drawn: one style, colours that colour-blind readers can tell apart, the same bytes for the same input.

Every plot is as wide as a column of a two-column paper, or a phone, so that no text in it is below 6 points where it is put.
matplotlib is imported only here and in the drawing functions, when a plot is drawn.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from evalkit.files import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette; what a colour means is also shown by a marker or a text
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#8a8f98"
# the page's dark theme replaces these three in the SVG, so nothing else may use them
INK, RULE, PAPER = "#1f2329", "#d8dce3", "#fefefe"
WIDTH = 3.35  # inches
SMALL, HEADING = 6.2, 7.5  # points, beside the 7 of all else
DOTS, POINTS = 220, 72  # an inch: of a PNG, of vectors
STYLE = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "text.parse_math": False,  # dollar signs in names are not mathematics
    "font.size": 7.0,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.5,
    "legend.fontsize": 6.5,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


@dataclass(frozen=True)  # no slots: its images are cached
class Plot:
    """A plot, drawn when first needed, and its description (`alt`) for screen readers. `height` is in inches."""

    name: str
    title: str
    alt: str
    height: float
    paint: Callable[["Figure"], None]

    @cached_property
    def png(self) -> bytes:
        """737 dots wide."""
        return self._draw("png", {"Software": None})

    @cached_property
    def pdf(self) -> bytes:
        """Vectors for a paper, the fonts embedded."""
        return self._draw("pdf", {"Creator": None, "Producer": None, "CreationDate": None})

    @cached_property
    def svg(self) -> bytes:
        """Text is kept as text."""
        drawn = self._draw("svg", {"Date": None, "Creator": None, "Format": None, "Type": None})
        # trailing blanks in matplotlib's paths are noise in a tracked file
        lines = (line.rstrip() for line in drawn.decode().splitlines())
        return ("\n".join(lines) + "\n").encode()

    def _draw(self, kind: str, metadata: Mapping[str, None]) -> bytes:
        from matplotlib import style
        from matplotlib.figure import Figure

        # the user's own matplotlib settings and a random salt would change the bytes
        with style.context(["default", {**STYLE, "svg.hashsalt": f"evalkit {self.name}"}]):
            figure = Figure(figsize=(WIDTH, self.height), dpi=DOTS if kind == "png" else POINTS, layout="constrained")
            self.paint(figure)
            _lay_out(figure)
            out = io.BytesIO()
            figure.savefig(out, format=kind, dpi=DOTS, metadata=dict(metadata))
        return out.getvalue()


def _lay_out(figure: "Figure") -> None:
    """Fix where the axes stand, rounded: the solver's last bits depend on what was drawn before, and names in an SVG on all bits."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(float(each), 6) for each in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


def clipped(text: str, most: int = 50) -> str:
    """A name that fits on one line of a plot."""
    return text if len(text) <= most else text[: most - 2] + ".."


def file_name(text: str) -> str:
    """A text as part of a plot's name: letters, digits and hyphens."""
    return shortened("".join(c if c.isalnum() else "-" for c in text).lower())


def bare(axes: "Axes", grid: str) -> None:
    """Remove the box and draw thin grid lines ("x", "y" or "both") in the background."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=RULE, linewidth=0.5, zorder=0)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
