"""How plots are drawn: one style, colours that colour-blind readers can tell apart, the same bytes for the same input.

matplotlib is imported only here and in the drawing functions, when a plot is drawn.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette; what a colour means is also shown by a marker or a text
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#8a8f98"
# the page's dark theme replaces these three in the SVG, so nothing else may use them
INK, RULE, PAPER = "#1f2329", "#d8dce3", "#fefefe"
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # dollar signs in names are not mathematics
    "font.size": 9.0,  # points
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
    """A plot, drawn when first needed, and its description (`alt`) for screen readers. `size` is in inches."""

    name: str
    title: str
    alt: str
    size: tuple[float, float]
    paint: Callable[["Figure"], None]

    @cached_property
    def png(self) -> bytes:
        """150 dots per inch."""
        return self._draw("png", {"Software": None})

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
            figure = Figure(figsize=self.size, layout="constrained")
            self.paint(figure)
            out = io.BytesIO()
            figure.savefig(out, format=kind, dpi=150, metadata=dict(metadata))
        return out.getvalue()


def bare(axes: "Axes", grid: str) -> None:
    """Remove the box and draw thin grid lines ("x", "y" or "both") in the background."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=RULE, linewidth=0.7, zorder=0)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
