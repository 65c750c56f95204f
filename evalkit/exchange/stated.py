"""What another program's file states of its figures: believed where all of it can be true together, else refused with the value."""

import math
from collections.abc import Sequence
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.record.figure import ROUNDING, agrees
from evalkit.record.sample import Score
from evalkit.stats.estimate import Estimate, mean, normal

UNBOUNDED = (-math.inf, math.inf)
SHARES = frozenset({"acc", "acc_norm", "exact_match", "exact_match_strict", "exact_match_flexible", "pass@1", "plus_pass@1"})
# Two estimates of one standard error (n or n - 1, a bootstrap, clusters of up to nine documents) differ by no more than this factor.
APART = 3


def stated(
    value: Any,
    scores: Sequence[float],
    stderr: Any = None,
    n: int | None = None,
    where: str = "",
    ci95: tuple[Any, Any] | None = None,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Estimate:
    """A figure that another program states, with its interval: from the documents' scores where there are some, else as it is stated.

    Raises EvalkitError where there is neither, since no figure goes without its interval, and where what is stated can't all be true:
    a figure that is not its scores' mean, in its interval or within the metric's bounds, a standard error that is not theirs.
    """
    found = None
    if scores and _is_number(value):
        if not agrees(value, (found := mean(scores)).value):
            raise EvalkitError(
                f"{where} {value!r:.40} is not the mean of its {len(scores):,} samples, {found.value:.6g}; give results that say one thing"
            )
        if n is not None and (n < len(scores) or n % len(scores)):  # a multiple: several ratings of each
            raise EvalkitError(f"{where} is stated to be of {n!r:.40} samples, and has {len(scores):,}; give results that say one thing")
        require_error(stderr, found, where)
    elif _is_number(stderr) and stderr < 0:
        raise EvalkitError(f"{where} {value!r:.40} has a standard error below 0, {stderr!r:.40}; give results that say one thing")
    elif not _is_number(value) or not _is_number(stderr) or not n:
        lacking = "is no number" if not _is_number(value) else "states neither samples that give it nor a standard error and n"
        raise EvalkitError(f"{where} {value!r:.40} {lacking}, so it has no interval; give results with samples or with their error")
    require_within(value, bounds, where)
    if found is None:
        _require_possible(float(value), stderr, n or 0, bounds, where)
    low, high = ci95 or normal(float(value), 0.0 if found else float(stderr))
    if not _is_number(low) or not _is_number(high) or not low - ROUNDING <= value <= high + ROUNDING:
        raise EvalkitError(f"{where} {value!r:.40} is not in its interval {low!r:.40} to {high!r:.40}; give results that say one thing")
    return found or Estimate(float(value), float(stderr), (float(low), float(high)), n or 0)


def bounds_of(metric: str) -> tuple[float, float]:
    """What a document's score lies in, by a metric that is a share wherever it is met; without bounds for any other."""
    return (0.0, 1.0) if metric.partition(",")[0] in SHARES else UNBOUNDED


def require_within(value: Score, bounds: tuple[float, float], what: str) -> None:
    """Raises EvalkitError for a number that is no score of its metric."""
    if isinstance(value, float | int) and not bounds[0] - ROUNDING <= value <= bounds[1] + ROUNDING:
        raise EvalkitError(
            f"{what} {value!r:.40} is not within {bounds[0]:g} to {bounds[1]:g}, where its metric lies; give results that say one thing"
        )


def require_error(stderr: Any, own: Estimate, where: str) -> None:
    """Raises EvalkitError where the standard error that a file states, if it states one, is not that of its samples."""
    if not _is_number(stderr):
        return
    # samples that are all alike have no error of their own to hold it against
    apart = own.stderr > 0 and not own.stderr / APART <= stderr <= own.stderr * APART
    if stderr < 0 or apart:
        found = f"{stderr!r:.40}, and of its {own.n:,} samples {own.stderr:.6g}"
        raise EvalkitError(f"{where}: the standard error is stated as {found}; give results that say one thing")


def _require_possible(value: float, stderr: float, n: int, bounds: tuple[float, float], where: str) -> None:
    """Raises EvalkitError for a standard error that no n scores of this mean within the bounds have."""
    low, high = bounds
    if n > 1 and math.isfinite(low) and math.isfinite(high):
        most = math.sqrt(max(0.0, (high - value) * (value - low)) / (n - 1))  # all of them at either end
        if stderr > APART * most + ROUNDING:
            raise EvalkitError(
                f"{where} {value!r:.40}: {n:,} scores have a standard error of at most {most:.6g}, and {stderr!r:.40} is stated; "
                "give results that say one thing"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
