"""The blog's argument in one picture: activated parameters against a score. matplotlib is imported here alone, when asked for."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.report.ledger import PublishedTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evalkit.report.params import Counted

TASK = "mmlu"
DENSE, SPARSE = ("o", "#0072b2", "dense"), ("D", "#d55e00", "mixture of experts")  # told apart without colour vision, too


def scatter(counted: Sequence["Counted"], table: PublishedTable) -> dict[str, bytes]:
    """The plot as {"png": .., "svg": ..}, the same bytes for the same input; {} where no model has a published score."""
    points = [(c, c.row.cells[TASK].value) for c in counted if c.row and TASK in c.row.cells]
    if not points:
        return {}
    from matplotlib import style
    from matplotlib.figure import Figure

    title = next(column.title for column in table.columns if column.task == TASK)
    # the user's own matplotlib settings and a random salt would change the bytes
    with style.context(["default", {"svg.hashsalt": "evalkit", "font.size": 9}]):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        for marker, color, label in (DENSE, SPARSE):
            kind = [(c, score) for c, score in points if _is_sparse(c) == (label == SPARSE[2])]
            if not kind:
                continue
            x, y = [c.counts["activated"] / 1e9 for c, _ in kind], [score for _, score in kind]
            axes.scatter(x, y, marker=marker, color=color, label=label, s=40, zorder=2)
        for c, score in points:
            axes.annotate(c.model, (c.counts["activated"] / 1e9, score), xytext=(0, 7), textcoords="offset points", ha="center")
        axes.margins(0.2)
        axes.set_xlim(left=0)
        axes.set_xlabel("activated parameters, billions (counted from the configurations)")
        axes.set_ylabel(f"{title}, as published (protocols differ)")
        axes.set_title(table.source, loc="left", fontsize=8, color="#555555")
        axes.grid(color="#dddddd", linewidth=0.6, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", frameon=False)
        return {"png": _save(figure, "png", {"Software": None}), "svg": _save(figure, "svg", {"Date": None, "Creator": None})}


def _is_sparse(counted: "Counted") -> bool:
    return counted.counts["activated"] < counted.counts["total"]


def _save(figure: "Figure", kind: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()
