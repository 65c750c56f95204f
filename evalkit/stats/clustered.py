"""Standard errors of documents in clusters (a passage, a question's turns, a sentence in many languages).

A mean is a sum of parts, one per document, and only clusters are independent. Cluster-robust, with the small-sample factor
C / (C - 1) (statsmodels' default for a mean), and Student's t on C - 1 degrees of freedom for the interval.
"""

import math
from collections.abc import Hashable, Iterable


def clustered_stderr(parts: Iterable[float], clusters: Iterable[Hashable]) -> tuple[float, int]:
    """(standard error of the sum of `parts`, number of clusters); 0 for a single cluster, whose spread is unknown.

    `parts` are centred: what each document adds to the estimate's difference from its expectation.
    """
    sums: dict[Hashable, float] = {}
    for part, cluster in zip(parts, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + part
    count = len(sums)
    return (math.sqrt(count / (count - 1) * math.fsum(s * s for s in sums.values())) if count > 1 else 0.0), count


def t_interval(value: float, stderr: float, clusters: int, scale: tuple[float, float]) -> tuple[float, float]:
    """The 95% interval, cut to the scale; for a single cluster it is the whole scale."""
    from scipy.special import stdtrit

    if clusters < 2:
        return scale
    half = float(stdtrit(clusters - 1, 0.975)) * stderr
    return max(scale[0], value - half), min(scale[1], value + half)
