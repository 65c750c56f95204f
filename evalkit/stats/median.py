"""The median of a few measurements, such as timings, whose distribution is not known and has a long tail: by their order alone."""

import math
from collections.abc import Sequence

from scipy import stats


def p_positive(values: Sequence[float]) -> float:
    """One-sided p that the median is above 0: the sign test. A 0 counts as evidence against it."""
    return float(stats.binom.sf(sum(value > 0 for value in values) - 1, len(values), 0.5))


def upper_of_median(values: Sequence[float], alpha: float) -> float:
    """The one-sided upper bound of the median at 1 - alpha, an order statistic; infinite for too few values."""
    ordered = sorted(values, reverse=True)
    beyond = [stats.binom.cdf(k, len(values), 0.5) <= alpha for k in range(len(values))]  # is the bound at the k-th largest safe?
    return ordered[sum(beyond) - 1] if any(beyond) else math.inf


def repeats_needed(alpha: float, hypotheses: int = 1) -> int:
    """How many values can show anything at this level, adjusted for so many hypotheses.

    All of one sign have a chance of 0.5 ** n, which has to be below it.
    """
    return math.floor(math.log2(hypotheses / alpha)) + 1
