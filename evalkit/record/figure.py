"""A run's figure, recomputed from its samples: a run whose own figure is another one is not compared."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.errors import EvalkitError
from evalkit.stats.estimate import Estimate, average

if TYPE_CHECKING:
    from evalkit.record.pairs import TaskAnswers

ROUNDING = 1e-9  # sums in another order
MEANS_ALONE = "only a mean over all documents can be compared: run it again"


@dataclass(frozen=True, slots=True)
class Figure:
    """A task's figure; BLEU's is in 0..1."""

    value: float
    is_bleu: bool = False


def figure(task: "TaskAnswers", averaging: str | None = None) -> Figure:
    """The mean of the documents' scores as the task averages them, or their BLEU. Raises EvalkitError for scores of both kinds."""
    if (mean := estimate(task, averaging)) is not None:
        return Figure(mean.value)
    scores = [answer.score for answer in task.answers.values()]
    texts = [score for score in scores if isinstance(score, tuple)]
    if len(texts) != len(scores):
        raise EvalkitError(f"not comparable: {task.name}: {task.metric} is a number for some documents and texts for others")
    from evalkit.stats.bleu import grouped_counts, mean_bleu

    groups = [answer.group if task.tokenize else "" for answer in task.answers.values()]
    return Figure(mean_bleu(grouped_counts(texts, groups, task.tokenize)), is_bleu=True)


def estimate(task: "TaskAnswers", averaging: str | None = None) -> Estimate | None:
    """The mean of the documents' scores as the task averages them, with its interval; None where not all scores are numbers."""
    by_group: dict[str, list[float]] = {}
    for answer in task.answers.values():
        if not isinstance(answer.score, float):
            return None
        by_group.setdefault(answer.group, []).append(answer.score)
    return average(by_group, averaging or task.averaging)


def averagings(task: "TaskAnswers", stated: Any) -> frozenset[str]:
    """The averagings under which the documents' scores give the stated figure: "micro", "macro", both or none."""
    means = {each: estimate(task, each) for each in ("micro", "macro")}
    return frozenset(each for each, mean in means.items() if mean is not None and agrees(stated, mean.value))


def require_figure(task: "TaskAnswers", stated: Any, source: str, points: float = 1, why: str = MEANS_ALONE) -> None:
    """Raises EvalkitError where the stated figure, in units of 1 / `points`, is not the samples' own."""
    value = points * figure(task).value
    if not agrees(stated, value):
        said = "no figure is stated" if stated is None else f"the figure stated is {stated!r:.40}"
        raise EvalkitError(
            f"not comparable: {source}: {task.metric} of {task.name} is {value:.10g} over the {len(task.answers):,} samples, and {said}; "
            f"{why}, or choose another metric with --metric"
        )


def require_count(task: str, source: str, n: int, stated: int) -> None:
    """Raises EvalkitError where not all documents are there, or more than the run has."""
    if n != stated:
        raise EvalkitError(f"not comparable: {source} holds {n:,} samples of {task}, and its figure is of {stated:,}; run it again")


def agrees(stated: Any, value: float) -> bool:
    """Is the figure that a file states this value, but for the order of sums?"""
    if not isinstance(stated, float | int):
        return False
    try:
        return math.isclose(stated, value, rel_tol=ROUNDING, abs_tol=ROUNDING)
    except OverflowError:  # an integer beyond all floats
        return False
