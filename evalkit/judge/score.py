"""Ratings -> MT-Bench's figures: the mean of turn 1, of turn 2, and of all judgments, on the scale of 1 to 10.

As FastChat's show_result: a judgment without a rating is left out, all others are pooled (repeated rows too). Here they are also
counted, and above MAX_FAILED of them there is no score. Intervals are clustered by question: its two turns are one conversation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.judge.config import MAX_FAILED
from evalkit.judge.rating import strict
from evalkit.stats.estimate import Estimate

SCALE = (1.0, 10.0)


@dataclass(frozen=True, slots=True)
class Rated:
    """One judgment as it counts. `text` is None where the judge said nothing; `published` and `strict` where there is no rating."""

    question_id: str
    category: str
    turn: int
    repeat: int
    text: str | None
    published: float | None
    strict: float | None

    def rating(self, reader: str) -> float | None:
        """What `reader` ("published" or "strict") makes of it."""
        return self.strict if reader == "strict" else self.published


def rated(question_id: str, category: str, turn: int, repeat: int, text: str | None, published: float | None) -> Rated:
    """One judgment, read strictly too."""
    return Rated(question_id, category, turn, repeat, text, published, None if text is None else strict(text))


def pooled(rows: Sequence[Rated], reader: str, scale: tuple[float, float] = SCALE) -> Estimate | None:
    """The mean of all ratings; its standard error over questions (factor C / (C - 1)), the interval with Student's t on C - 1 degrees.

    None where there is no rating. The interval lies within the scale; of a single question it is the whole of it.
    """
    from scipy.special import stdtrit

    values = [(row.question_id, value) for row in rows if (value := row.rating(reader)) is not None]
    if not values:
        return None
    mean = math.fsum(value for _, value in values) / len(values)
    sums: dict[str, float] = {}
    for question_id, value in values:
        sums[question_id] = sums.get(question_id, 0.0) + value - mean
    clusters = len(sums)
    if clusters == 1:
        return Estimate(mean, 0.0, scale, len(values))
    stderr = math.sqrt(clusters / (clusters - 1) * math.fsum(s * s for s in sums.values())) / len(values)
    half = float(stdtrit(clusters - 1, 0.975)) * stderr
    return Estimate(mean, stderr, (max(scale[0], mean - half), min(scale[1], mean + half)), len(values))


def metrics(rows: Sequence[Rated], reader: str) -> dict[str, Any]:
    """run.json's metrics: score, turn_1, turn_2, and what the other reader makes of the same texts. Those without a rating are left out."""
    other = "published" if reader == "strict" else "strict"
    found = {"score": pooled(rows, reader)}
    found |= {f"turn_{turn}": pooled(some, reader) for turn, some in _by(rows, lambda row: row.turn).items()}
    found[f"score_{other}"] = pooled(rows, other)
    return {name: estimate.as_json() for name, estimate in found.items() if estimate}


def by_category(rows: Sequence[Rated], reader: str) -> dict[str, Any]:
    """The same for each category."""
    return {category: metrics(some, reader) for category, some in _by(rows, lambda row: row.category).items()}


def of_question(rows: Sequence[Rated], reader: str) -> dict[str, float]:
    """A sample's metrics: the means of one question's ratings, without those that there are not."""
    return {name: estimate["value"] for name, estimate in metrics(rows, reader).items()}


def spread(rows: Sequence[Rated], reader: str) -> dict[str, Any] | None:
    """How far the judge is from itself: the score of each repeat, their standard deviation and range. None for one repeat."""
    means = [estimate.value for _, some in sorted(_by(rows, lambda row: row.repeat).items()) if (estimate := pooled(some, reader))]
    if len(means) < 2:
        return None
    centre = math.fsum(means) / len(means)
    deviation = math.sqrt(math.fsum((m - centre) ** 2 for m in means) / (len(means) - 1))
    return {"scores": means, "stdev": deviation, "range": max(means) - min(means)}


def counts(rows: Sequence[Rated]) -> dict[str, int]:
    """What became of the judgments, for both readers."""
    texts = [row for row in rows if row.text is not None]
    return {
        "judgments": len(rows),
        "failed": len(rows) - len(texts),
        "published": sum(row.published is not None for row in rows),
        "strict": sum(row.strict is not None for row in rows),
        "readers_differ": sum(row.published != row.strict for row in texts),
        "outside_1_to_10": sum(row.published is not None and not 1 <= row.published <= 10 for row in rows),
    }


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


def _by(rows: Sequence[Rated], key: Callable[[Rated], Any]) -> Mapping[Any, list[Rated]]:
    found: dict[Any, list[Rated]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return dict(sorted(found.items())) if all(isinstance(k, int) for k in found) else found
