"""The headline averaged the other way, where a task has subjects: published figures do not always say which mean they are."""

from dataclasses import dataclass
from typing import Literal

from evalkit.record.schema import TaskEntry
from evalkit.stats.estimate import Estimate, combined


@dataclass(frozen=True, slots=True)
class OtherMean:
    """`over`: the subjects or documents whose mean it is, in words; `figure` is in the metric's unit."""

    name: Literal["macro", "micro"]
    over: str
    figure: Estimate

    def __str__(self) -> str:
        return f"{self.name} mean"


def other_mean(entry: TaskEntry) -> OtherMean | None:
    """The macro mean of a task that averages over documents, the micro mean of one that averages over subjects."""
    figures = [metrics[entry.headline] for metrics in entry.subjects.values() if entry.headline in metrics]
    # a suite prints its own means; a subject of one document has no standard error
    if entry.cells or len(figures) < 2 or any(figure.n < 2 for figure in figures):
        return None
    if entry.averaging == "micro":
        return OtherMean("macro", f"{len(figures)} subjects", combined(figures, "macro"))
    return OtherMean("micro", f"{entry.n:,} documents", combined(figures, "micro"))
