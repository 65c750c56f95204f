"""Throughput measured, at the device's roofline, and published."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.bench.record import BenchRecord
from evalkit.report.plots.plot import BLUE, INK, ORANGE, SMALL, Plot, bare, clipped
from evalkit.report.published import PublishedTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def throughput_plot(table: PublishedTable, benches: Sequence[BenchRecord]) -> Plot | None:
    """One bar per bench record, with its roofline, and the published figures for other devices; None without a record."""
    if not benches or table.throughput is None:
        return None
    published = [(row.model, row.throughput.tokens_per_second) for row in table.rows if row.throughput]
    names = [f"{bench.model.spec}, {bench.how}" for bench in benches]
    names += [f"{model}, {table.throughput.engine} on {table.throughput.device}" for model, _ in published]

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        bare(axes, "x")
        for y, bench in enumerate(benches):
            rate, most = bench.total_tokens_per_second, bench.roofline_rate
            axes.barh(y, rate, height=0.3, color=BLUE, label="measured" if y == 0 else "_", zorder=2)
            if most:
                axes.plot([most, most], [y - 0.22, y + 0.22], color=ORANGE, linewidth=1.6, label="roofline" if y == 0 else "_", zorder=3)
            share = f", {rate / most:.0%} of the roofline" if most else ""
            _print(axes, max(rate, most or 0), y, f"{rate:,.0f}{share}")
        for y, (_, rate) in enumerate(published, len(benches)):
            axes.plot(rate, y, "o", color=INK, markerfacecolor="none", markersize=6, markeredgewidth=1, linestyle="none",
                      label="published" if y == len(benches) else "_", zorder=3)  # fmt: skip
            _print(axes, rate, y, f"{rate:,.0f}")
        for y, name in enumerate(names):  # over its bar: names are long
            place = axes.get_yaxis_transform()
            axes.annotate(clipped(name, 62), (0, y - 0.38), xycoords=place, fontsize=SMALL, va="center", in_layout=False)
        axes.set_yticks([])
        axes.set_ylim(len(names) - 0.5, -0.7)
        axes.set_xlim(0, 1.6 * axes.get_xlim()[1])
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("tokens a second, input and output")
        figure.legend(loc="outside lower center", ncols=3)

    told = [f"{bench.model.spec} on {bench.device}: {bench.total_tokens_per_second:,.0f}" for bench in benches]
    told += [f"{model} published: {rate:,.0f}" for model, rate in published]
    alt = "Tokens a second, input and output. " + "; ".join(told)
    return Plot("throughput", "Throughput and its roofline", alt, 0.9 + 0.36 * len(names), paint)


def _print(axes: "Axes", x: float, y: float, text: str) -> None:
    """A number right of its mark."""
    axes.annotate(text, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=SMALL)
