"""Ratings -> a judged benchmark's figures: the mean of each turn and of all judgments, on the benchmark's scale.

As FastChat's show_result: a judgment without a rating is left out, all others are pooled (repeated rows too). Here they are also
counted, and above MAX_FAILED of them there is no score. Intervals are clustered by question: its turns are one conversation.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.judge.config import MAX_FAILED
from evalkit.record.schema import JudgeCounts, Metrics, Spread
from evalkit.stats.clustered import clustered_stderr, t_interval
from evalkit.stats.estimate import Estimate


@dataclass(frozen=True, slots=True)
class Rated:
    """One judgment with its ratings. `text` is None where the judgment failed; `published` and `strict` where there is no rating on the
    scale; `outside`: the authors' reader finds one that is not on it.
    """

    question_id: str
    category: str
    turn: int
    repeat: int
    text: str | None
    published: float | None
    strict: float | None
    outside: bool = False

    def rating(self, reader: str) -> float | None:
        """The rating by `reader` ("published" or "strict")."""
        return self.strict if reader == "strict" else self.published


@dataclass(frozen=True, slots=True)
class Ratings:
    """Judgments of one model, read by `reader`, on a scale from the worst to the best rating."""

    rows: Sequence[Rated]
    reader: str
    scale: tuple[float, float]

    def mean(self, reader: str = "") -> Estimate | None:
        """The mean of all ratings (by another reader, where one is named); None where there is none."""
        values = [(row.question_id, value) for row in self.rows if (value := row.rating(reader or self.reader)) is not None]
        return clustered_mean(values, self.scale)

    def metrics(self) -> Metrics:
        """run.json's metrics: score, turn_1 and so on, and the score by the other reader. Those without a rating are left out."""
        other = "published" if self.reader == "strict" else "strict"
        found = {"score": self.mean()}
        found |= {f"turn_{turn}": some.mean() for turn, some in sorted(self._by(lambda row: row.turn).items())}
        found[f"score_{other}"] = self.mean(other)
        return {name: estimate for name, estimate in found.items() if estimate}

    def by_category(self) -> Mapping[str, Metrics]:
        """The same for each category."""
        return {category: some.metrics() for category, some in self._by(lambda row: row.category).items()}

    def by_question(self) -> dict[str, "Ratings"]:
        """The judgments of each question."""
        return self._by(lambda row: row.question_id)

    def values(self) -> dict[str, float]:
        """A sample's metrics: the means alone."""
        return {name: estimate.value for name, estimate in self.metrics().items()}

    def in_words(self) -> str:
        """What a sample shows as extracted: "turn 1: 7, turn 2: -"."""
        read = ((row.turn, row.rating(self.reader)) for row in self.rows)
        return ", ".join(f"turn {turn}: {'-' if value is None else f'{value:g}'}" for turn, value in read)

    def spread(self) -> Spread | None:
        """How much the judge differs from itself: the score of each repeat, their standard deviation and range. None for one repeat."""
        means = [estimate.value for _, some in sorted(self._by(lambda row: row.repeat).items()) if (estimate := some.mean())]
        if len(means) < 2:
            return None
        centre = math.fsum(means) / len(means)
        deviation = math.sqrt(math.fsum((m - centre) ** 2 for m in means) / (len(means) - 1))
        return Spread(scores=tuple(means), stdev=deviation, range=max(means) - min(means))

    def counts(self) -> JudgeCounts:
        """How many judgments there are, failed, have a rating by either reader, and have one that is not on the scale."""
        texts = [row for row in self.rows if row.text is not None]
        return JudgeCounts(
            judgments=len(self.rows),
            failed=len(self.rows) - len(texts),
            published=sum(row.published is not None for row in self.rows),
            strict=sum(row.strict is not None for row in self.rows),
            readers_differ=sum(row.published != row.strict for row in texts),
            outside_scale=sum(row.outside for row in self.rows),
        )

    def _by(self, key: Callable[[Rated], Any]) -> dict[Any, "Ratings"]:
        groups: dict[Any, list[Rated]] = {}
        for row in self.rows:
            groups.setdefault(key(row), []).append(row)
        return {name: replace(self, rows=rows) for name, rows in groups.items()}


def clustered_mean(values: Iterable[tuple[str, float]], scale: tuple[float, float]) -> Estimate | None:
    """The mean of (question, value) pairs; its standard error over questions (factor C / (C - 1)), the interval with Student's t on
    C - 1 degrees of freedom, cut to the scale. None for no pairs; of a single question the interval is the whole scale.
    """
    values = list(values)
    if not values:
        return None
    mean = math.fsum(value for _, value in values) / len(values)
    of_sum, clusters = clustered_stderr((value - mean for _, value in values), (question_id for question_id, _ in values))
    stderr = of_sum / len(values)
    return Estimate(mean, stderr, t_interval(mean, stderr, clusters, scale), len(values))


def refuse_holes(
    holes: Sequence[tuple[str, int]], due: int, reader: str, fix: str, kind: type[EvalkitError], max_failed: float = MAX_FAILED
) -> None:
    """Raise `kind` where more than this share of the judgments that are due are `holes`: (question, turn) without a rating."""
    if len(holes) > max_failed * due:
        question_id, turn = holes[0]
        raise kind(
            f"no score: {len(holes)} of {due} judgments failed or hold no rating ({reader}), more than {max_failed:.0%}"
            f" (first: question {question_id}, turn {turn}); {fix}"
        )
