"""Throughput measured, at the device's roofline, and published."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.bench.record import BenchRecord
from evalkit.report.plots.plot import BLUE, INK, ORANGE, Plot, bare
from evalkit.report.published import PublishedTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def throughput_plot(table: PublishedTable, benches: Sequence[BenchRecord]) -> Plot | None:
    """One bar per bench record, with its roofline, and the published figures for other devices; None without a record."""
    if not benches or table.throughput is None:
        return None
    published = [(row.model, row.throughput.tokens_per_second) for row in table.rows if row.throughput]
    names = [f"{bench.model.spec}\n{bench.how}" for bench in benches]
    names += [f"{model}\n{table.throughput.engine}, {table.throughput.device}" for model, _ in published]

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        bare(axes, "x")
        for y, bench in enumerate(benches):
            rate, most = bench.total_tokens_per_second, bench.roofline_rate
            axes.barh(y, rate, height=0.55, color=BLUE, label="measured" if y == 0 else "_", zorder=2)
            if most:
                axes.plot([most, most], [y - 0.36, y + 0.36], color=ORANGE, linewidth=2.5, label="roofline" if y == 0 else "_", zorder=3)
            share = f", {rate / most:.0%} of the roofline" if most else ""
            axes.annotate(f"{rate:,.0f}{share}", (max(rate, most or 0), y), xytext=(6, 0), textcoords="offset points", va="center")
        for y, (_, rate) in enumerate(published, len(benches)):
            axes.plot(rate, y, "o", color=INK, markerfacecolor="none", markersize=7.5, markeredgewidth=1.3, linestyle="none",
                      label="published" if y == len(benches) else "_", zorder=3)  # fmt: skip
            axes.annotate(f"{rate:,.0f}", (rate, y), xytext=(8, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 1.45 * axes.get_xlim()[1])
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("tokens a second, input and output")
        axes.legend(loc="lower right")

    told = [f"{bench.model.spec} on {bench.device}: {bench.total_tokens_per_second:,.0f}" for bench in benches]
    told += [f"{model} published: {rate:,.0f}" for model, rate in published]
    alt = "Tokens a second, input and output. " + "; ".join(told)
    return Plot("throughput", "Throughput and its roofline", alt, (8.4, 1.3 + 0.5 * len(names)), paint)
