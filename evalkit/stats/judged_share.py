"""The share of right answers behind the verdicts of a judge that errs (Lee et al. 2025, "How to correctly report LLM-as-a-judge
evaluations", arXiv 2511.21140; the estimator is Rogan and Gladen's, 1978).

A judge passes a share p = theta sensitivity + (1 - theta) (1 - specificity) of answers of which a share theta is right. Both rates are
measured on answers whose right verdict is known, others than those that p is of. The interval, by the delta method, accounts for the
uncertainty of all three; counts are smoothed (those of p by z^2 / 2 on either side, as in Agresti and Coull's interval, the rates' by 1).
"""

import math
from dataclasses import dataclass

from evalkit.errors import EvalkitError
from evalkit.stats.estimate import Z95, Estimate, wilson


@dataclass(frozen=True, slots=True)
class Count:
    """`hits` of `n`."""

    hits: int
    n: int

    @property
    def share(self) -> Estimate:
        """With Wilson's interval. Raises ZeroDivisionError for none."""
        share = self.hits / self.n
        return Estimate(share, math.sqrt(share * (1 - share) / self.n), wilson(share, self.n), self.n)

    def smoothed(self, more: float) -> tuple[float, float]:
        """(share, variance) with so many hits and misses more."""
        n = self.n + 2 * more
        share = (self.hits + more) / n
        return share, share * (1 - share) / n


@dataclass(frozen=True, slots=True)
class JudgeRates:
    """Of labelled answers: right ones that the judge passed (sensitivity), wrong ones that it did not (specificity)."""

    sensitivity: Count
    specificity: Count

    def require_better_than_chance(self) -> None:
        """Raises EvalkitError where right and wrong answers are not known to get other verdicts: then these say nothing of theta."""
        if not (self.sensitivity.n and self.specificity.n):
            lacking = "right" if not self.sensitivity.n else "wrong"
            raise EvalkitError(f"none of the labelled answers is {lacking}, so nothing is known of the judge there; label more answers")
        (q1, v1), (q0, v0) = self.sensitivity.smoothed(1), self.specificity.smoothed(1)
        if q0 + q1 - 1 <= Z95 * math.sqrt(v0 + v1):
            raise EvalkitError(
                f"the judge passed {self.sensitivity.hits} of {self.sensitivity.n} right answers and "
                f"{self.specificity.n - self.specificity.hits} of {self.specificity.n} wrong ones, which chance may explain: its verdicts "
                "cannot be corrected; label more answers, or take another judge"
            )


def corrected(passed: Count, rates: JudgeRates) -> Estimate:
    """The share of right answers of which `passed` were passed, cut to 0..1. Raises EvalkitError for a judge no better than chance."""
    rates.require_better_than_chance()
    raw = [count.hits / count.n for count in (passed, rates.sensitivity, rates.specificity)]
    value = _theta(*raw)
    (p, var_p), (q1, var_1), (q0, var_0) = passed.smoothed(Z95**2 / 2), rates.sensitivity.smoothed(1), rates.specificity.smoothed(1)
    theta, youden = _theta(p, q1, q0), q0 + q1 - 1
    stderr = math.sqrt(var_p + (1 - theta) ** 2 * var_0 + theta**2 * var_1) / youden
    centre = theta + 2 * Z95**2 * (theta * var_1 - (1 - theta) * var_0)
    low, high = (min(1.0, max(0.0, centre + side * Z95 * stderr)) for side in (-1, 1))
    return Estimate(min(1.0, max(0.0, value)), stderr, (low, high), passed.n)


def _theta(p: float, sensitivity: float, specificity: float) -> float:
    return (p + specificity - 1) / (sensitivity + specificity - 1)
