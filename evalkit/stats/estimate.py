"""Means with their uncertainty. A figure is never printed without its interval.

Standard errors are of the sample mean (ddof 1), as lm-eval's. Intervals at 95%: Wilson's for a proportion (right also near 0 and
1 and for few documents; Wilson 1927), else normal. Source for the practice: Miller 2024, "Adding error bars to evals", arXiv 2411.00640.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean in the metric's unit (accuracy: 0 to 1), its standard error and 95% interval."""

    value: float
    stderr: float
    ci95: tuple[float, float]
    n: int


def mean(values: Sequence[float]) -> Estimate:
    """Mean over documents (micro average) of a metric in 0..1. Raises ValueError for no values."""
    n = len(values)
    if not n:
        raise ValueError("the mean of no documents")
    value = math.fsum(values) / n
    stderr = math.sqrt(_variance(values) / n)
    if all(x in (0.0, 1.0) for x in values):
        return Estimate(value, stderr, wilson(value, n), n)
    return Estimate(value, stderr, normal(value, stderr) if n > 1 else (0.0, 1.0), n)


def macro(groups: Iterable[Sequence[float]]) -> Estimate:
    """Mean of the groups' means with equal weights; the groups are fixed by the benchmark, not sampled."""
    groups = list(groups)
    everything = [x for values in groups for x in values]
    # a group of one document has no variance: that of the whole sample is used
    variances = [(_variance(values) if len(values) > 1 else _variance(everything)) / len(values) for values in groups]
    value = math.fsum(math.fsum(values) / len(values) for values in groups) / len(groups)
    stderr = math.sqrt(math.fsum(variances)) / len(groups)
    return Estimate(value, stderr, normal(value, stderr) if len(everything) > 1 else (0.0, 1.0), len(everything))


def _variance(values: Sequence[float]) -> float:
    """Sample variance (ddof 1); 0 for a single value."""
    if len(values) < 2:
        return 0.0
    centre = math.fsum(values) / len(values)
    return math.fsum((x - centre) ** 2 for x in values) / (len(values) - 1)


def average(by_group: Mapping[str, Sequence[float]], averaging: str) -> Estimate:
    """ "micro": every document has the same weight; "macro": every group has."""
    if averaging == "macro":
        return macro(by_group.values())
    return mean([x for values in by_group.values() for x in values])


def combined(groups: Sequence[Estimate], averaging: str) -> Estimate:
    """`average` over documents of which only their groups' means are known; the groups are fixed by the benchmark, not sampled."""
    n = sum(group.n for group in groups)
    weights = [1 / len(groups) if averaging == "macro" else group.n / n for group in groups]
    value = math.fsum(weight * group.value for weight, group in zip(weights, groups, strict=True))
    stderr = math.sqrt(math.fsum((weight * group.stderr) ** 2 for weight, group in zip(weights, groups, strict=True)))
    return Estimate(value, stderr, normal(value, stderr), n)


def wilson(proportion: float, n: int) -> tuple[float, float]:
    """Wilson's score interval at 95%."""
    z2 = Z95**2 / n
    centre = (proportion + z2 / 2) / (1 + z2)
    half = Z95 * math.sqrt(proportion * (1 - proportion) / n + z2 / (4 * n)) / (1 + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def normal(value: float, stderr: float) -> tuple[float, float]:
    """value +- 1.96 standard errors."""
    return value - Z95 * stderr, value + Z95 * stderr
