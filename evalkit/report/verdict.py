"""The verdict on a published figure, decided in one function, with a reason. Figures are in the published table's unit."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from evalkit.hashing import sha256_json
from evalkit.judge.config import MAX_FAILED
from evalkit.record.schema import ModelInfo, TaskEntry, task_of
from evalkit.report.matches import Match, in_tables
from evalkit.report.published import Column, PublishedFigure, rounding
from evalkit.report.weights import Weights, weights_of
from evalkit.stats.estimate import Estimate
from evalkit.tasks.registry import task_classes

WIDEST = 0.08  # of the scale: with a wider half interval, a figure does not count as reproduced
MAX_FLAWED = 0.01  # share of documents with truncated prompts or merged boundaries above which a figure is not comparable
PERCENT = 100.0
OWN = ("dir", "hub", "package", "code")  # sources of rows that evalkit itself has read


Word = Literal[
    "reproduced",
    "differs",
    "published figure inconsistent",
    "cannot tell",
    "not comparable",
    "not measured",
    "nothing published",
]
WORDS: Mapping[Word, str] = {  # the most informative first, and what each means
    "reproduced": "the published figure lies in the interval",
    "differs": "the published figure lies outside the interval",
    "published figure inconsistent": "the published figure cannot be right as printed",
    "cannot tell": "protocols, weights, judges or tables differ, or there are too few documents",
    "not comparable": "the run is not of the whole benchmark, or too many of its documents are flawed",
    "not measured": "the run has no figure for it yet",
    "nothing published": "no published table has a figure for this model and task",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`compares`: the two figures measure the same thing, whatever the documents suffice to tell."""

    word: Word
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

    def holds(self, printed: str) -> bool:
        """Whether a figure lies in the interval, to within its rounding."""
        return self.low - rounding(printed) <= float(printed) <= self.high + rounding(printed)


def measured_figure(entry: TaskEntry | None, column: Column | None = None) -> Measured | None:
    """The column's figure of a task's entry of run.json, in its unit: the headline's, or the metric's or category's that the column is of.

    None if there is none: not measured, the category not run, or answers without judgments so far.
    """
    if entry is None:
        return None
    metrics = entry.groups.get(column.group, {}) if column and column.group else entry.metrics
    metric = (column and column.metric) or entry.headline
    figure = metrics.get(metric)
    return None if figure is None else scaled(figure, scale_of(entry, column, metric))


def scaled(figure: Estimate, scale: float) -> Measured:
    """A figure of run.json in its printed unit."""
    low, high = figure.ci95
    return Measured(scale * figure.value, scale * low, scale * high, figure.n)


def scale_of(entry: TaskEntry, column: Column | None, metric: str) -> float:
    """The factor from a metric to its printed unit: its column's, or else 100 for shares and 1 for ratings, perplexities and the like."""
    return column.scale if column else PERCENT if entry.is_share(metric) else 1.0


def verdict(cell: PublishedFigure | None, column: Column | None, task: str, entry: TaskEntry | None, model: ModelInfo | None) -> Verdict:
    """Compare a published cell with one task's entry of the run.json of a model. `task` may be a column's key.

    The interval is unpaired, since the published answers are unknown.
    """
    figure = measured_figure(entry, column)
    if entry is None or model is None or figure is None:
        if cell and cell.inconsistent:
            return Verdict("published figure inconsistent", cell.inconsistent)
        return Verdict("not measured", why_no_figure(entry, column) if entry is not None else "")
    task = task_of(task)
    if reason := why_not_comparable(task, entry):
        return Verdict("not comparable", reason)
    if cell is None or column is None:
        return Verdict("nothing published")
    weights = weights_of(model, cell.checkpoint)
    reason = _why_not_the_same(cell, column, entry, weights)
    if cell.inconsistent:
        instead = f" on {weights.stand_in}" if weights.stand_in else ""
        told = "" if reason else f"; measured {_shown(figure, column)}{instead}, {_held(figure, cell)}"
        return Verdict("published figure inconsistent", cell.inconsistent + told)
    if reason:
        return Verdict("cannot tell", reason)
    if not figure.holds(cell.printed):
        instead = f"{weights.stand_in}, a cause that is not tested" if weights.stand_in and not cell.tested else weights.stand_in
        return Verdict("differs", "; ".join(text for text in (cell.tested, instead, weights.remark) if text), compares=True)
    if figure.half > WIDEST * column.maximum:
        return Verdict("cannot tell", f"n = {figure.n} is too small: +-{figure.half:.1f} points", compares=True)
    return Verdict("reproduced", f"{weights.stand_in}: {weights.because}" if weights.stand_in else weights.remark, compares=True)


def _why_not_the_same(cell: PublishedFigure, column: Column, entry: TaskEntry, weights: Weights) -> str:
    """Why the two figures do not measure the same thing; "" if they do."""
    task = column.task
    if not cell.protocol:
        return f"how the published figure was made can't be run: {cell.origin or 'it is unpublished'}"
    if cell.protocol != entry.protocol:
        return f"published under {task}@{cell.protocol}, measured under {task}@{entry.protocol}"
    if changed := _changed(task_of(task), entry):
        return changed
    if cell.samples > 1:
        return f"published as the mean of {cell.samples} sampled answers a document, measured with one"
    if weights.other:
        return f"other weights: {weights.other}"
    judge = entry.judge.model if entry.judge else ""
    if cell.judges and judge not in cell.judges:
        return f"published as judged by {cell.judges[0]}, measured as judged by {judge or 'an unknown judge'}"
    return ""


def _changed(task: str, entry: TaskEntry) -> str:
    """That the protocol of this name is another one today; "" where it is not, or where the run is not of an installed task."""
    known, ours = task_classes().get(task), entry.data.source in OWN
    protocol = known.protocols.get(entry.protocol) if known and ours else None
    made = entry.judge.answers_protocol_sha256 if entry.judge else entry.protocol_sha256
    if protocol is None or made is None or made == sha256_json(asdict(protocol)):
        return ""
    return f"{task}@{entry.protocol} has changed since this run (it was {made[:8]}); run it again"


def _shown(figure: Measured, column: Column) -> str:
    value, low, high = (f"{x:.{column.decimals}f}" for x in (figure.value, figure.low, figure.high))
    return f"{value} ({low} to {high})"


def _held(figure: Measured, cell: PublishedFigure) -> str:
    """Which of a figure's prints lie in the interval."""
    prints = [cell.printed, *(each.printed for each in cell.also)]
    held = [printed for printed in prints if figure.holds(printed)]
    if len(held) == len(prints):
        return f"an interval that contains {'it' if len(prints) == 1 else 'all of them'}"
    if held:
        return f"an interval that contains {' and '.join(held)} alone"
    return f"an interval without {'any of them' if len(prints) > 1 else 'it'}"


def verdict_on(matches: Sequence[Match], task: str, entry: TaskEntry, model: ModelInfo) -> Verdict:
    """The verdict on all published figures for a task: "cannot tell" if they do not all get the same one."""
    found = [verdict(match.figure, match.column, task, entry, model) for match in matches] or [verdict(None, None, task, entry, model)]
    if len({each.word for each in found}) > 1:
        return Verdict("cannot tell", f"the tables differ: {in_tables(matches)}")
    return found[0]


def why_no_figure(entry: TaskEntry, column: Column | None = None) -> str:
    """Why an entry of run.json has no figure for the column, or no headline figure."""
    if reason := entry.counts.why_no_score(entry.n):
        return reason
    if entry.counts.unscored:
        return f"{entry.counts.unscored:,} of {entry.n:,} documents wait for judgments"
    if column and column.metric and entry.metrics:
        return f"the run has no {column.metric}; it has {', '.join(entry.metrics)}"
    return "the run holds no figure for it"


def why_not_comparable(task: str, entry: TaskEntry) -> str:
    """Why a measured figure is not the benchmark's; "" if it is. A sample or limited run is never treated as a full one."""
    if entry.data.source == "sample":
        return "bundled sample, not the benchmark"
    if entry.data.official is False:
        return f"its rows are not the benchmark's (evalkit data verify {task})"
    if entry.n < entry.n_total:
        return f"limited to {entry.n:,} of {entry.n_total:,}"
    coverage = entry.coverage
    if coverage and coverage.complete < coverage.cells:
        return f"{coverage.complete} of {coverage.cells} parts have all their data"
    known = task_classes().get(task)  # for a suite, its coverage decides, cell by cell
    if known and not coverage and entry.n_total != known.official_n:
        return f"{entry.n_total:,} documents, the benchmark has {known.official_n:,}"
    figure, judge = entry.figure, entry.judge
    if known and figure and not coverage and not judge and figure.n < entry.n:
        return f"{figure.n:,} of {entry.n:,} documents have {entry.headline}"
    if judge and judge.max_failed is not None and judge.left_out > MAX_FAILED * judge.counts.judgments:
        return f"{judge.left_out:,} of {judge.counts.judgments:,} judgments have no rating, more than {MAX_FAILED:.0%}"
    counts = entry.counts
    for count, what in ((counts.truncated, "truncated"), (counts.boundary_merged, "boundary merged"), (counts.unscored, "unscored")):
        if count > MAX_FLAWED * entry.n:
            return f"{count:,} of {entry.n:,} documents {what}"
    return ""
