"""A confidence sequence for the mean of a finite population, sampled without replacement: valid at every look, exact at the end.

The population: `size` units (documents, or clusters of them), each with a value within +-`bound`. They are drawn in blocks, and after each
block one may look and stop, as often as one likes: the intervals of all looks hold together at the stated level.

By betting (Waudby-Smith and Ramdas 2020, "Confidence sequences for sampling without replacement", arXiv 2006.04347, section 3; 2023,
"Estimating means of bounded random variables by betting", arXiv 2010.09686). Against the claim that the mean is at most m one bets a
share c of a capital of 1 on each unit, which multiplies it by

    1 - c + c (x + bound) / (M + bound),    M = (size m - sum of what was drawn) / (units left), the mean of what is left, as claimed.

If the claim is true, the capital is not expected to grow, so it ever reaches 1 / alpha with a probability of alpha at most (Ville). M is
that of the block's beginning, for all of its units, and so is c: any share may be bet that is fixed before its block. `share` takes the
one that grows fastest if the claim is off by the margin and as many units flip as did so far.

Blocks may be stratified. Where stratum s with R_s of the R units left gives k_s or k_s + 1 of them, independently and n R_s / R on average,
the capital is not expected to grow over a block either. Of k factors drawn without replacement the product expects the k-th power of their
mean at most (Maclaurin's inequality); a unit that is drawn with a probability is one more factor; and the product of all these is at most
the power of their mean, which is 1. `tests/unit/test_sequential.py` adds up every possible draw of small populations.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evalkit.hashing import sha256_json
from evalkit.stats.paired import Array

LARGEST = 0.9  # share: with all of it, one unit could lose everything
FLIPS_FIRST, FLIPS = 5.0, 2.0  # the share of flips in margins, as supposed for the first block, and after it
SUPPOSED = 2.0  # how many units the later supposition weighs, times the margin
DROP = 1.5  # margins: the drop that is looked for
ROUNDING = 1e-12  # of the bound
HALVINGS = 60
LOOKS = 3  # in the number of units below which not even a candidate that changes nothing passes
LATER = 12  # blocks grow to the 12th part of what was drawn before


def step(margin: float, alpha: float) -> float:
    """How many units the first blocks have."""
    return math.log(1 / alpha) / margin / LOOKS


def share(n: ArrayLike, squares: ArrayLike, margin: float, bound: float, above: bool) -> Array:
    """The share to bet after n units, whose squares have this sum (any shape): against a mean that lies a margin below what one expects
    (`above`), or the drop that is looked for above it.
    """
    distance = margin if above else DROP * margin
    n, squares = np.asarray(n, float), np.asarray(squares, float)
    weight = SUPPOSED * bound / margin
    variance = np.where(n > 0, (FLIPS * margin * bound * weight + squares) / (weight + n), FLIPS_FIRST * margin * bound)
    best: Array = np.minimum(LARGEST, bound * distance / (variance + distance**2))
    return best


def log_growth(values: ArrayLike, counts: ArrayLike, left: ArrayLike, bound: float, share: ArrayLike) -> Array:
    """How the logarithm of the capital grows over a block, bet against a mean of `left` or less among all units left before it.

    `values` (V,) with `counts` (.., V) each; `left` and `share` (..,). Infinite where no values could have that mean.
    """
    gain_V = np.asarray(values, float) + bound
    gain_V = np.where(gain_V < ROUNDING * bound, 0.0, gain_V)
    room, part = np.asarray(left, float)[..., None] + bound, np.asarray(share, float)[..., None]
    factor = 1 - part + part * gain_V / np.maximum(room, ROUNDING * bound)
    growth = (np.asarray(counts, float) * np.log(factor)).sum(-1)
    return np.where(room[..., 0] < -ROUNDING * bound, np.inf, growth)


@dataclass(frozen=True, slots=True)
class _Block:
    """Distinct values and their counts, units and total before the block, and the share bet on either side (1 above, -1 below)."""

    values: Array
    counts: Array
    n: int
    total: float
    bets: Mapping[float, float]


class ConfidenceSequence:
    """What the blocks drawn so far say of the population's mean."""

    def __init__(self, size: int, bound: float, margin: float):
        """`margin`: what the bets are for. The intervals hold with any."""
        self.size, self.bound, self.margin = size, bound, margin
        self.n, self.total, self.squares = 0, 0.0, 0.0  # units drawn, their sum and that of their squares
        self._blocks: list[_Block] = []

    def add(self, values: ArrayLike) -> None:
        """Another block. Raises ValueError for more units than there are, or a value beyond the bound."""
        drawn = np.asarray(values, float)
        if self.n + len(drawn) > self.size or not (np.abs(drawn) <= self.bound * (1 + ROUNDING)).all():
            raise ValueError(f"{len(drawn)} more of {self.size} units after {self.n}, within +-{self.bound}")
        if len(drawn):
            distinct, counts = np.unique(drawn, return_counts=True)
            bets = {sign: float(share(self.n, self.squares, self.margin, self.bound, sign > 0)) for sign in (1.0, -1.0)}
            self._blocks.append(_Block(distinct, counts.astype(float), self.n, self.total, bets))
            self.n += len(drawn)
            self.total += math.fsum(drawn)
            self.squares += math.fsum(drawn**2)

    @property
    def mean(self) -> float:
        """Of the units drawn."""
        return self.total / self.n

    def p_at_most(self, mean: float) -> float:
        """Evidence against a population mean of `mean` or less, valid whenever one stops: 1 / the largest capital that it ever had."""
        return self._p(mean, 1.0)

    def p_at_least(self, mean: float) -> float:
        """The same against `mean` or more."""
        return self._p(-mean, -1.0)

    def lower(self, alpha: float) -> float:
        """The one-sided bound at 1 - alpha: no smaller mean was left at any look."""
        return self._bound(alpha, 1.0)

    def upper(self, alpha: float) -> float:
        """The same from above."""
        return -self._bound(alpha, -1.0)

    def _p(self, mean: float, sign: float) -> float:
        if not self._blocks:
            return 1.0
        if self.n == self.size:
            return float(sign * self.total / self.size <= mean)
        if self.size * mean - sign * self.total < -self.bound * (self.size - self.n) - ROUNDING * self.bound * self.size:
            return 0.0  # even the lowest values would leave a higher mean
        return min(1.0, math.exp(-max(0.0, float(np.cumsum(self._growth(mean, sign)).max()))))

    def _growth(self, mean: float, sign: float) -> list[float]:
        """Of the capital bet on `sign` times the mean, block by block."""
        return [
            float(log_growth(sign * b.values, b.counts, (self.size * mean - sign * b.total) / (self.size - b.n), self.bound, b.bets[sign]))
            for b in self._blocks
        ]

    def _bound(self, alpha: float, sign: float) -> float:
        """Between what the units left could bring the mean down to, and the mean of those drawn."""
        left = self.size - self.n
        low = (sign * self.total - self.bound * left) / self.size
        high = sign * self.mean if self.n else low
        if not left or self._p(low, sign) > alpha:
            return low
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._p(middle, sign) <= alpha else (low, middle)
        return low

    def units_to_decide(self, mean: float, alpha: float, above: bool) -> int:
        """About how many units exclude this mean, if the others are like those drawn; all of them where these do not say."""
        sign = 1.0 if above else -1.0
        values = np.concatenate([sign * block.values for block in self._blocks])
        counts = np.concatenate([block.counts for block in self._blocks])
        bet = share(self.n, self.squares, self.margin, self.bound, above)
        pace = float(log_growth(values, counts, sign * mean, self.bound, bet)) / self.n
        if pace <= 0:
            return self.size
        missing = math.log(1 / alpha) - math.fsum(self._growth(sign * mean, sign))
        return min(self.size, self.n + max(1, math.ceil(missing / pace)))


def blocks(ids: Sequence[str], strata: Sequence[Hashable], step: int, seed: int, most: int | None = None) -> list[list[int]]:
    """All units (indices into `ids`) in the order in which they are drawn: blocks of about `step` units, or the 12th part of those before.

    With `most`, about so many units in all. Every stratum gives its share of each block, in an order of its own. Chance comes from SHA-256
    of seed, id and block alone: the order is the same with any library, and everybody can check it.
    """
    members: dict[Hashable, list[int]] = {}
    for i in sorted(range(len(ids)), key=lambda i: sha256_json(["order", seed, ids[i]])):
        members.setdefault(strata[i], []).append(i)
    found: list[list[int]] = []
    drawn, left, turn = 0, len(ids), 0
    while left and (most is None or drawn < most):
        size = max(step, drawn // LATER)
        if left < 2 * size:
            size = left
        if most is not None:
            size = min(size, most - drawn)
        block: list[int] = []
        for queue in filter(None, members.values()):
            share = size * len(queue) / left
            chance = int(sha256_json(["block", seed, turn, ids[queue[0]]])[:13], 16) / 16**13
            count = int(share) + (chance < share - int(share))
            block += queue[:count]
            del queue[:count]
        found += [block] if block else []
        drawn, left, turn = drawn + len(block), left - len(block), turn + 1
    return found
