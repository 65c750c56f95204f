"""The verdict on a published figure, decided in one function, with a reason. Figures are in the published table's unit."""

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.judge.config import MAX_FAILED
from evalkit.record.schema import TaskEntry
from evalkit.report.published import Column, Match, PublishedFigure, in_tables
from evalkit.tasks.registry import task_classes

WIDEST = 0.08  # of the scale: with a wider half interval, a figure does not count as reproduced
MAX_FLAWED = 0.01  # share of documents with truncated prompts or merged boundaries above which a figure is not comparable
PERCENT = 100.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word`: reproduced, differs, cannot tell, not comparable, published figure inconsistent, nothing published, not measured.

    `compares`: the two figures measure the same thing, whatever the documents suffice to tell.
    """

    word: str
    reason: str = ""
    compares: bool = False

    def __str__(self) -> str:
        return f"{self.word} ({self.reason})" if self.reason else self.word


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured figure and its 95% interval, over n documents."""

    value: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2


def measured_figure(entry: TaskEntry | None, column: Column | None = None) -> Measured | None:
    """The headline figure of a task's entry of run.json (or of the category that the column is of), in the column's unit.

    None if there is none: not measured, the category not run, or answers without judgments so far.
    """
    if entry is None:
        return None
    metrics = entry.groups.get(column.group, {}) if column and column.group else entry.metrics
    if (figure := metrics.get(entry.headline)) is None:
        return None
    scale = scale_of(entry, column)
    low, high = figure.ci95
    return Measured(scale * figure.value, scale * low, scale * high, figure.n)


def scale_of(entry: TaskEntry, column: Column | None) -> float:
    """The factor from a metric to its printed unit: its column's, or else 1 for a judge's ratings and 100 for shares."""
    return column.scale if column else 1.0 if entry.judge else PERCENT


def verdict(cell: PublishedFigure | None, column: Column | None, task: str, entry: TaskEntry | None) -> Verdict:
    """Compare a published cell with one task's entry of a run.json. The interval is unpaired, since the published answers are unknown."""
    figure = measured_figure(entry, column)
    if entry is None or figure is None:
        if cell and cell.inconsistent:
            return Verdict("published figure inconsistent", cell.inconsistent)
        return Verdict("not measured", why_no_figure(entry) if entry is not None else "")
    if reason := why_not_comparable(task, entry):
        return Verdict("not comparable", reason)
    if cell is None or column is None:
        return Verdict("nothing published")
    if cell.inconsistent:
        return Verdict("published figure inconsistent", cell.inconsistent)
    if not cell.protocol:
        return Verdict("cannot tell", f"how the published figure was made can't be run: {cell.origin}")
    if cell.protocol != entry.protocol:
        return Verdict("cannot tell", f"published under {task}@{cell.protocol}, measured under {task}@{entry.protocol}")
    judge = entry.judge.model if entry.judge else ""
    if cell.judges and judge not in cell.judges:
        return Verdict("cannot tell", f"published as judged by {cell.judges[0]}, measured as judged by {judge or 'an unknown judge'}")
    rounding = column.rounding(cell)
    if not figure.low - rounding <= cell.value <= figure.high + rounding:
        return Verdict("differs", compares=True)
    if figure.half > WIDEST * column.maximum:
        return Verdict("cannot tell", f"n = {figure.n} is too small: +-{figure.half:.1f} points", compares=True)
    return Verdict("reproduced", compares=True)


def verdict_on(matches: Sequence[Match], task: str, entry: TaskEntry) -> Verdict:
    """The verdict on all published figures for a task: "cannot tell" if they do not all get the same one."""
    found = [verdict(match.figure, match.column, task, entry) for match in matches] or [verdict(None, None, task, entry)]
    if len({each.word for each in found}) > 1:
        return Verdict("cannot tell", f"the tables differ: {in_tables(matches)}")
    return found[0]


def why_no_figure(entry: TaskEntry) -> str:
    """Why an entry of run.json has no headline figure."""
    if reason := entry.counts.why_no_score(entry.n):
        return reason
    if entry.counts.unscored:
        return f"{entry.counts.unscored:,} of {entry.n:,} documents wait for judgments"
    return "the run holds no figure for it"


def why_not_comparable(task: str, entry: TaskEntry) -> str:
    """Why a measured figure is not the benchmark's; "" if it is. A sample or limited run is never treated as a full one."""
    if entry.data.source == "sample":
        return "bundled sample, not the benchmark"
    if entry.n < entry.n_total:
        return f"limited to {entry.n:,} of {entry.n_total:,}"
    coverage = entry.coverage
    if coverage and coverage.complete < coverage.cells:
        return f"{coverage.complete} of {coverage.cells} parts have all their data"
    known = task_classes().get(task)  # for a suite, its coverage decides, cell by cell
    if known and not coverage and entry.n_total != known.official_n:
        return f"{entry.n_total:,} documents, the benchmark has {known.official_n:,}"
    counts = entry.counts
    for count, what in ((counts.truncated, "truncated"), (counts.boundary_merged, "boundary merged"), (counts.unscored, "unscored")):
        if count > MAX_FLAWED * entry.n:
            return f"{count:,} of {entry.n:,} documents {what}"
    judge = entry.judge
    if judge and judge.max_failed is not None and judge.left_out > MAX_FAILED * judge.counts.judgments:
        return f"{judge.left_out:,} of {judge.counts.judgments:,} judgments have no rating, more than {MAX_FAILED:.0%}"
    return ""
