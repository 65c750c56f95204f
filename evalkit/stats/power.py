"""What the exact McNemar test can find: its power against a drop, the smallest drop that it finds, the documents that it takes.

The test counts flips, and few flips are never significant: at a level of 5% it takes five, all losses. A normal approximation does not
see that, and promises a power of 80% where there is one of 40% (164 documents, 90% right). So the test is run over all its outcomes:
n documents of which each is lost, gained or neither, and the p-value of every count of flips.
"""

import functools
import math

import numpy as np
from scipy import optimize, stats

POWER = 0.80
SIGMAS = 9  # counts of flips further from their mean are left out


def power(n: int, drop: float, variance: float, alpha: float) -> float:
    """The chance that `n` documents show a drop of `drop` (0 to 1) at the one-sided level `alpha`.

    `variance`: that of a document's difference if there were no drop, which is then the rate of flips; a drop adds its own.
    """
    flips = min(1.0, max(drop, variance + drop * drop))  # Var(d) = rate of flips - drop^2
    if flips <= 0:
        return 0.0
    mean, spread = n * flips, SIGMAS * math.sqrt(n * flips * (1 - flips)) + SIGMAS
    counts = np.arange(max(0, math.floor(mean - spread)), min(n, math.ceil(mean + spread)) + 1)
    most = stats.binom.ppf(alpha, counts, 0.5) - 1  # gains of so many flips that are still significant; -1: none is
    found = stats.binom.cdf(most, counts, max(0.0, (flips - drop) / (2 * flips)))
    return float(stats.binom.pmf(counts, n, flips) @ found)


@functools.lru_cache(maxsize=4096)
def detectable_drop(n: int, variance: float, alpha: float) -> float:
    """The smallest drop that n documents show with POWER; 1 where none is."""
    if power(n, 1.0, variance, alpha) < POWER:
        return 1.0
    return float(optimize.brentq(lambda drop: power(n, drop, variance, alpha) - POWER, 0.0, 1.0, xtol=1e-6))


@functools.lru_cache(maxsize=4096)
def documents_for(drop: float, variance: float, alpha: float) -> int:
    """How many documents show a drop (above 0) with POWER."""
    enough = 1
    while power(enough, drop, variance, alpha) < POWER:
        enough *= 2
    low = enough // 2
    while enough - low > max(1, enough // 1000):  # to a tenth of a percent: it is an estimate
        middle = (low + enough) // 2
        low, enough = (middle, enough) if power(middle, drop, variance, alpha) < POWER else (low, middle)
    return enough
