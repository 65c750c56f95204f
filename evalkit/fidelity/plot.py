"""Mean KL divergence against the size of the files: a panel for each task, a point for each copy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.fidelity.record import Fidelity, Mean
from evalkit.report.plots.plot import BLUE, HEADING, INK, ORANGE, SMALL, Plot, bare, clipped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEGA = 1e6
PANEL = 2.0  # inches
CLOSE = 1.6  # ratio of two divergences whose labels would cover each other
Point = tuple[str, float, Mean]  # name, megabytes, divergence


def divergence_plot(record: Fidelity) -> Plot | None:
    """None where no copy's size is known."""
    sized = [(copy, copy.model.file_bytes / MEGA) for copy in record.copies if copy.model.file_bytes]
    if not sized:
        return None
    panels = {
        data.protocol: [(copy.model.name, size, copy.tasks[name].divergence.mean) for copy, size in sized]
        for name, data in record.tasks.items()
    }
    size = record.reference.file_bytes

    def paint(figure: "Figure") -> None:
        for axes, (title, points) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True):
            _paint(axes, title, points, size / MEGA if size else None)

    told = [f"{protocol}: {name}, {size:,.0f} MB, {mean.value:.3g}" for protocol, points in panels.items() for name, size, mean in points]
    alt = f"Mean KL divergence from {record.reference.name}, in nats, against size. " + "; ".join(told)
    return Plot("kl-by-size", "KL divergence by size", alt, PANEL * len(panels) + 0.1, paint)


def _paint(axes: "Axes", title: str, points: Sequence[Point], reference: float | None) -> None:
    bare(axes, "both")
    positive = [mean.value for _, _, mean in points if mean.value]
    if positive:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    widest = max([reference or 0.0, *(size for _, size, _ in points)])
    floor = min(positive, default=1.0) / 10
    placed: list[tuple[float, float]] = []
    for name, size, mean in points:
        if mean.value and mean.ci95:
            axes.plot(
                [size, size], [max(mean.ci95[0], floor), mean.ci95[1]], "-", color=BLUE, linewidth=1.6, solid_capstyle="butt", zorder=2
            )
        marker, height = ("D", mean.value) if mean.value else ("v", floor)
        axes.plot(size, height, marker, color=BLUE, markersize=4, markeredgewidth=0, zorder=3)
        text = clipped(name, 34) if mean.value else f"{clipped(name, 28)}: 0"
        is_right = size > widest / 2
        # labels of points that lie close stand above and below each other
        close = sum(abs(x - size) < widest / 20 and 1 / CLOSE < y / height < CLOSE for x, y in placed)
        placed.append((size, height))
        offset, side = (-5 if is_right else 5, (3, -9, 12, -18)[close % 4]), "right" if is_right else "left"
        axes.annotate(text, (size, height), offset, textcoords="offset points", fontsize=SMALL, ha=side)
    if reference:
        axes.axvline(reference, color=ORANGE, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        axes.annotate(
            "reference", (reference, 0.02), (-3, 0), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=SMALL,
            color=INK, ha="right", rotation=90, va="bottom",
        )  # fmt: skip
    axes.set_xlim(0, 1.08 * widest)
    axes.margins(y=0.2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=6)
    axes.tick_params(labelsize=SMALL)
    axes.set_xlabel("files, MB", fontsize=SMALL)
    axes.set_ylabel("mean KL, nats", fontsize=SMALL)
    axes.set_title(clipped(title), fontsize=HEADING, loc="left")
