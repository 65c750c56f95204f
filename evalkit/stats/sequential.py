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

Nor need the strata give their shares. If k_s units are expected of stratum s and k of all, each stands for w_s = (k / k_s) (R_s / R) of
those left, its weight, and c w_s is bet on it, which must not exceed 1. As k_s w_s / k is R_s / R, the mean of all factors is again 1 if
the claim is true, and the same argument holds, with any k_s above 0 that are fixed before their block (guided.py chooses some).
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
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


def expected_square(n: ArrayLike, squares: ArrayLike, margin: float, bound: float) -> Array:
    """A unit's square after n units, whose squares have this sum (any shape): as it is supposed to be, and as it was seen."""
    weight = SUPPOSED * bound / margin
    n, squares = np.asarray(n, float), np.asarray(squares, float)
    return np.where(n > 0, (FLIPS * margin * bound * weight + squares) / (weight + n), FLIPS_FIRST * margin * bound)


def share(square: ArrayLike, margin: float, bound: float, above: bool, heaviest: ArrayLike = 1.0) -> Array:
    """The share to bet where a unit's square is expected to be `square` (any shape), and none weighs more than `heaviest`: against a mean
    that lies a margin below what one expects (`above`), or the drop that is looked for above it.
    """
    distance = margin if above else DROP * margin
    best: Array = np.minimum(LARGEST / np.asarray(heaviest, float), bound * distance / (np.asarray(square, float) + distance**2))
    return best


def log_growth(values: ArrayLike, counts: ArrayLike, left: ArrayLike, bound: float, share: ArrayLike, weights: ArrayLike = 1.0) -> Array:
    """How the logarithm of the capital grows over a block, bet against a mean of `left` or less among all units left before it.

    `values` (V,) with `counts` (.., V) and `weights` (.., V) each; `left` and `share` (..,). Infinite where no values could have that mean.
    """
    gain_V = np.asarray(values, float) + bound
    gain_V = np.where(gain_V < ROUNDING * bound, 0.0, gain_V)
    room, part = np.asarray(left, float)[..., None] + bound, np.asarray(share, float)[..., None] * np.asarray(weights, float)
    factor = 1 - part + part * gain_V / np.maximum(room, ROUNDING * bound)
    growth = (np.asarray(counts, float) * np.log(factor)).sum(-1)
    return np.where(room[..., 0] < -ROUNDING * bound, np.inf, growth)


@dataclass(frozen=True, slots=True)
class _Block:
    """Distinct values with their weights and counts, units and total before the block, and the share bet on either side (1 above, -1
    below).
    """

    values: Array
    weights: Array
    counts: Array
    n: int
    total: float
    bets: Mapping[float, float]


class ConfidenceSequence:
    """What the blocks drawn so far say of the population's mean."""

    def __init__(self, size: int, bound: float, margin: float):
        """`margin`: what the bets are for. The intervals hold with any."""
        self.size, self.bound, self.margin = size, bound, margin
        self.n, self.total, self.squares = 0, 0.0, 0.0  # units drawn, their sum and that of their squares, weighted
        self._blocks: list[_Block] = []

    def add(self, values: ArrayLike, weights: ArrayLike = 1.0, heaviest: float = 1.0, square: float | None = None) -> None:
        """Another block. Of strata that did not give their shares, `weights` has each unit's, `heaviest` is the largest of any stratum,
        and `square` what a unit's is expected to be; all three are fixed before the block.

        Raises ValueError for more units than there are, a value beyond the bound, or a weight above `heaviest`.
        """
        drawn = np.asarray(values, float)
        weighted = np.broadcast_to(np.asarray(weights, float), drawn.shape)
        if self.n + len(drawn) > self.size or not (np.abs(drawn) <= self.bound * (1 + ROUNDING)).all():
            raise ValueError(f"{len(drawn)} more of {self.size} units after {self.n}, within +-{self.bound}")
        if not ((weighted > 0) & (weighted <= heaviest)).all():
            raise ValueError(f"weights from {weighted.min()} to {weighted.max()}, above 0 and at most {heaviest}")
        if len(drawn):
            (distinct, of_each), counts = np.unique(np.stack([drawn, weighted]), axis=1, return_counts=True)
            expected = expected_square(self.n, self.squares, self.margin, self.bound) if square is None else square
            bets = {sign: float(share(expected, self.margin, self.bound, sign > 0, heaviest)) for sign in (1.0, -1.0)}
            self._blocks.append(_Block(distinct, of_each, counts.astype(float), self.n, self.total, bets))
            self.n += len(drawn)
            self.total += math.fsum(drawn)
            self.squares += math.fsum(weighted * drawn**2)

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
            float(
                log_growth(
                    sign * b.values,
                    b.counts,
                    (self.size * mean - sign * b.total) / (self.size - b.n),
                    self.bound,
                    b.bets[sign],
                    b.weights,
                )
            )
            for b in self._blocks
        ]

    def _bound(self, alpha: float, sign: float) -> float:
        """Between what the units left could bring the mean down to, and up to."""
        left = self.size - self.n
        low, high = ((sign * self.total + side * self.bound * left) / self.size for side in (-1, 1))
        if not left or self._p(low, sign) > alpha:
            return low
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._p(middle, sign) <= alpha else (low, middle)
        return low

    def units_to_decide(self, mean: float, alpha: float, above: bool) -> int:
        """About how many units exclude this mean, if the others are like those drawn; all of them where these do not say."""
        sign = 1.0 if above else -1.0
        values, weights, counts = (
            np.concatenate(arrays) for arrays in zip(*((b.values, b.weights, b.counts) for b in self._blocks), strict=True)
        )
        square = expected_square(self.n, self.squares, self.margin, self.bound)
        bet = share(square, self.margin, self.bound, above, float(weights.max()))
        pace = float(log_growth(sign * values, counts, sign * mean, self.bound, bet, weights)) / self.n
        if pace <= 0:
            return self.size
        missing = math.log(1 / alpha) - math.fsum(self._growth(sign * mean, sign))
        return min(self.size, self.n + max(1, math.ceil(missing / pace)))


class Order:
    """Units (indices into `ids`), block by block, each stratum in an order of its own.

    Chance comes from SHA-256 of seed, id and block alone: the order is the same with any library, and everybody can check it.
    """

    def __init__(self, ids: Sequence[str], strata: Sequence[Hashable], step: int, seed: int, most: int | None = None):
        """Blocks have about `step` units, or the 12th part of those before; with `most`, about so many in all."""
        self.ids, self.step, self.seed, self.most = ids, step, seed, most
        self.drawn, self._turn = 0, 0
        self._members: dict[Hashable, list[int]] = {}
        for i in sorted(range(len(ids)), key=lambda i: sha256_json(["order", seed, ids[i]])):
            self._members.setdefault(strata[i], []).append(i)

    @property
    def left(self) -> int:
        """Units that are not drawn yet."""
        return len(self.ids) - self.drawn

    @property
    def size(self) -> int:
        """About how many units the next block has; 0 at the end."""
        size = max(self.step, self.drawn // LATER)
        if self.left < 2 * size:
            size = self.left
        return size if self.most is None else max(0, min(size, self.most - self.drawn))

    def equal_shares(self) -> Callable[[Hashable, int], float]:
        """Of a block to which every stratum gives its share."""
        size, left = self.size, self.left
        return lambda _, count: size * count / left

    def draw(self, expected: Callable[[Hashable, int], float]) -> list[int]:
        """The next block, of each stratum so many units on average as `expected` says, given the stratum and how many it has left."""
        block: list[int] = []
        for stratum, queue in self._members.items():
            if queue:
                share = expected(stratum, len(queue))
                chance = int(sha256_json(["block", self.seed, self._turn, self.ids[queue[0]]])[:13], 16) / 16**13
                count = int(share) + (chance < share - int(share))
                block += queue[:count]
                del queue[:count]
        self.drawn, self._turn = self.drawn + len(block), self._turn + 1
        return block


def blocks(ids: Sequence[str], strata: Sequence[Hashable], step: int, seed: int, most: int | None = None) -> list[list[int]]:
    """All units in an `Order` in which every stratum gives its share of each block."""
    order, found = Order(ids, strata, step, seed, most), list[list[int]]()
    while order.size:
        found.append(order.draw(order.equal_shares()))
    return [block for block in found if block]
