"""What the exact test can find: against draws, and against counts that a reader can check by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from evalkit.stats.power import POWER, detectable_drop, documents_for, power

DRAWS = 20_000
NOISE = 4 * math.sqrt(POWER * (1 - POWER) / DRAWS)


def drawn(n: int, drop: float, variance: float, alpha: float) -> float:
    """The share of samples in which the exact one-sided test finds the drop."""
    flips = max(drop, variance + drop * drop)
    lost, gained, _ = np.random.default_rng(n).multinomial(n, [(flips + drop) / 2, (flips - drop) / 2, 1 - flips], size=DRAWS).T
    return float((stats.binom.cdf(gained, gained + lost, 0.5) < alpha).mean())


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize(("n", "right"), [(56, 0.6), (164, 0.9), (164, 0.6), (1_319, 0.9), (14_042, 0.6)])
def test_the_detectable_drop_is_found_in_four_of_five_samples(n: int, right: float, alpha: float) -> None:
    variance = 0.2 * right * (1 - right)
    found = detectable_drop(n, variance, alpha)
    assert drawn(n, found, variance, alpha) == pytest.approx(POWER, abs=NOISE)
    assert power(n, 0.9 * found, variance, alpha) < POWER


def test_five_flips_are_needed_at_five_percent() -> None:
    """Four losses have p = 1/16, five 1/32: with no flips but a drop's, five are to be among n."""
    assert power(4, 1.0, 0.0, 0.05) == 0
    assert power(5, 1.0, 0.0, 0.05) == pytest.approx(1)
    found = detectable_drop(164, 0.0, 0.05)
    assert stats.binom.sf(4, 164, found) == pytest.approx(POWER, abs=1e-4)
    assert detectable_drop(4, 0.0, 0.05) == 1.0


@pytest.mark.parametrize("drop", [0.3, 0.05, 0.005])
def test_documents_for_a_drop(drop: float) -> None:
    n = documents_for(drop, 0.048, 0.05)
    assert power(n, drop, 0.048, 0.05) >= POWER
    assert detectable_drop(n, 0.048, 0.05) == pytest.approx(drop, rel=0.02)
