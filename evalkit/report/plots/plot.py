"""How plots are drawn: one style, colours that are told apart without colour vision, the same bytes for the same input.

matplotlib is imported here and in the painters alone, when asked for.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette; wherever a colour means something a marker or a text says it too
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#8a8f98"
# the page's dark theme replaces these three in the SVG, so nothing else may have them
INK, RULE, PAPER = "#1f2329", "#d8dce3", "#fefefe"
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with dollar signs is a name
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


@dataclass(frozen=True)  # no slots: it keeps its pictures once they are drawn
class Plot:
    """A picture, drawn when it is first asked for, and what it says (`alt`) for those who can't see it. `size` is in inches."""

    name: str
    title: str
    alt: str
    size: tuple[float, float]
    paint: Callable[["Figure"], None]

    @cached_property
    def png(self) -> bytes:
        """150 dots an inch."""
        return self._draw("png", {"Software": None})

    @cached_property
    def svg(self) -> bytes:
        """Its texts stay texts."""
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
    """No box; thin rules along `grid` ("x", "y" or "both") behind what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=RULE, linewidth=0.7, zorder=0)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
