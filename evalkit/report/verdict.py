"""Does the published figure hold? One function decides, and says why. Figures here are in percent, as published."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.registry import task_classes
from evalkit.report.ledger import Cell, Column

WIDEST = 8.0  # percentage points: a 95% interval with a wider half says too little to call a figure reproduced
MAX_FLAWED = 0.01  # share of documents with truncated prompts or merged boundaries above which a figure proves nothing


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word`: reproduced, differs, cannot tell, not comparable, published figure inconsistent, nothing published, not measured."""

    word: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.word} ({self.reason})" if self.reason else self.word


def verdict(cell: Cell | None, column: Column | None, task: str, measured: Mapping[str, Any] | None) -> Verdict:
    """Compare a published cell with one task's entry of a run.json. The interval is unpaired: the published answers are not at hand."""
    if measured is None:
        return Verdict("not measured")
    if reason := why_not_comparable(task, measured):
        return Verdict("not comparable", reason)
    if cell is None or column is None:
        return Verdict("nothing published")
    if cell.inconsistent:
        return Verdict("published figure inconsistent", cell.inconsistent)
    if not cell.protocol:
        return Verdict("cannot tell", f"how the published figure was made can't be run: {cell.origin}")
    if cell.protocol != measured["protocol"]:
        return Verdict("cannot tell", f"published under {task}@{cell.protocol}, measured under {task}@{measured['protocol']}")
    low, high = (100 * bound for bound in measured["metrics"][measured["headline"]]["ci95"])
    rounding = 0.5 * 10**-column.decimals
    if not low - rounding <= cell.value <= high + rounding:
        return Verdict("differs")
    if (high - low) / 2 > WIDEST:
        return Verdict("cannot tell", f"n = {measured['n']} is too small: +-{(high - low) / 2:.1f} points")
    return Verdict("reproduced")


def why_not_comparable(task: str, measured: Mapping[str, Any]) -> str:
    """Why a measured figure is not the benchmark's figure; "" where it is. A sample or limited run never passes for a full one."""
    if measured["data"]["source"] == "sample":
        return "bundled sample, not the benchmark"
    if measured["n"] < measured["n_total"]:
        return f"limited to {measured['n']:,} of {measured['n_total']:,}"
    known = task_classes().get(task)
    if known and measured["n_total"] != known.official_n:
        return f"{measured['n_total']:,} documents, the benchmark has {known.official_n:,}"
    counts = measured["counts"]
    for name in ("truncated", "boundary_merged", "unscored"):
        if counts.get(name, 0) > MAX_FLAWED * measured["n"]:
            return f"{counts[name]:,} of {measured['n']:,} documents {name.replace('_', ' ')}"
    return ""
