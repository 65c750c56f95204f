"""A guided order: units whose decision was close in the base are drawn more often, since these are the ones that flip.

Strata are ranks of closeness: the closest 16th of the units, the rest of the closest 8th, 4th and half, and the others. Before each block
every stratum gets the share of its units that is drawn, by what was seen of it so far: in proportion to the root of how often its units
flip (Neyman 1934), but no less than a floor; of several floors the one is taken with which the capital grows fastest. As long as nothing
flips, all shares are equal, as in `evalkit.stats.sequential.blocks`.

Shares and bets are fixed before their block, so the capital is not expected to grow where the claim is true, whatever the closeness is
worth: one that says nothing of the flips costs documents, not errors. `evalkit.stats.sequential` has the argument and its source.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from evalkit.stats.paired import ALPHA, Array
from evalkit.stats.sequential import FLIPS, FLIPS_FIRST, SUPPOSED, Order, share

EDGES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the units, the closest first: where a stratum ends
FLOORS = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3)  # the smallest share drawn of any stratum, as a part of the largest
PRIOR = 2.0  # flips that are supposed in each stratum, at the rate of all, so that one without any by chance is not left out


def closest(gaps: Sequence[float], ids: Sequence[str]) -> list[int]:
    """Each unit's stratum, 0 for the closest, by the gap that its decision had."""
    ends = [round(edge * len(ids)) for edge in EDGES]
    found = [0] * len(ids)
    for rank, i in enumerate(sorted(range(len(ids)), key=lambda i: (gaps[i], ids[i]))):
        found[i] = sum(rank >= end for end in ends)
    return found


@dataclass(frozen=True, slots=True)
class Shares:
    """Of S strata (.., S): the share of each one's units left that is `drawn`, and the weight of such a unit. (..,): the largest weight of
    any stratum, and what a unit's weighted square is expected to be.
    """

    drawn: Array
    weights: Array
    heaviest: Array
    square: Array


def shares(left_S: ArrayLike, seen_S: ArrayLike, squares_S: ArrayLike, margin: float, bound: float, size: ArrayLike) -> Shares:
    """Of a block of about `size` units (..,), given the units left and seen of each stratum, and the sum of the squares seen (.., S)."""
    left_S, seen_S, squares_S = (np.asarray(each, float) for each in (left_S, seen_S, squares_S))
    size_1, left_1 = np.asarray(size, float)[..., None], np.maximum(left_S.sum(-1, keepdims=True), 1.0)
    # as expected_square supposes it, each stratum with its part of the supposition
    supposed_S = SUPPOSED * bound / margin * (left_S + seen_S) / (left_S + seen_S).sum(-1, keepdims=True)
    square_S = (FLIPS * margin * bound * supposed_S + squares_S) / np.maximum(supposed_S + seen_S, 1e-9)
    of_all_1 = (left_S / left_1 * square_S).sum(-1, keepdims=True)
    root_S = np.sqrt((PRIOR * bound**2 + squares_S) / (PRIOR * bound**2 / np.maximum(of_all_1, 1e-9) + seen_S))
    floors_F = np.reshape(FLOORS, (-1, *[1] * root_S.ndim))
    wanted_FS = np.maximum(root_S / root_S.max(-1, keepdims=True), floors_F)  # from here on of each floor, (F, .., S)
    drawn_FS = np.minimum(1.0, wanted_FS * size_1 / np.maximum((wanted_FS * left_S).sum(-1, keepdims=True), 1e-9))
    count_F1 = (drawn_FS * left_S).sum(-1, keepdims=True)
    weights_FS = count_F1 / (left_1 * drawn_FS)
    heaviest_F = np.where(left_S > 0, weights_FS, 1.0).max(-1)
    square_F = (left_S / left_1 * weights_FS * square_S).sum(-1)
    bet_F = share(square_F, margin, bound, True, heaviest_F) / bound
    pace_F = (bet_F * margin - bet_F**2 * square_F / 2) * np.minimum(1.0, count_F1 / size_1)[..., 0]
    best_1 = pace_F.argmax(0, keepdims=True)
    drawn_S, weights_S = (np.take_along_axis(each, best_1[..., None], 0)[0] for each in (drawn_FS, weights_FS))
    heaviest, square = (np.take_along_axis(each, best_1, 0)[0] for each in (heaviest_F, square_F))
    return Shares(drawn_S, weights_S, heaviest, np.where(seen_S.sum(-1) > 0, square, FLIPS_FIRST * margin * bound))


@dataclass(frozen=True, slots=True)
class Block:
    """Units, each with its weight, and what `ConfidenceSequence.add` is told of the strata that they come from."""

    units: list[int]
    weights: list[float]
    heaviest: float = 1.0
    square: float | None = None


class GuidedOrder:
    """Block after block: `block` is the next one, of no units at the end."""

    def __init__(
        self,
        ids: Sequence[str],
        groups: Sequence[Hashable],
        gaps: Sequence[float],
        step: int,
        seed: int,
        margin: float,
        bound: float,
        most: int | None = None,
    ):
        """`groups` are strata too, which give as much of each closeness as the others."""
        self.strata = closest(gaps, ids)
        self.margin, self.bound = margin, bound
        self._order = Order(ids, list(zip(groups, self.strata, strict=True)), step, seed, most)
        self.sizes_S = np.bincount(self.strata, minlength=len(EDGES) + 1).astype(float)
        self._seen_S, self._squares_S = np.zeros_like(self.sizes_S), np.zeros_like(self.sizes_S)
        self.block = self._next()

    def add(self, values: Sequence[float]) -> None:
        """The block's units have these values."""
        for unit, value in zip(self.block.units, values, strict=True):
            self._seen_S[self.strata[unit]] += 1
            self._squares_S[self.strata[unit]] += value**2
        self.block = self._next()

    def _next(self) -> Block:
        while size := self._order.size:
            if size == self._order.left:  # all of them
                units = self._order.draw(self._order.equal_shares())
                return Block(units, [1.0] * len(units))
            found = shares(self.sizes_S - self._seen_S, self._seen_S, self._squares_S, self.margin, self.bound, size)
            if units := self._order.draw(partial(_expected, found.drawn.tolist())):
                weights = [float(found.weights[self.strata[unit]]) for unit in units]
                return Block(units, weights, float(found.heaviest), float(found.square))
        return Block([], [])


def _expected(drawn: Sequence[float], stratum: Hashable, count: int) -> float:
    """Units of a stratum (group, closeness) with `count` left, by the share drawn of each closeness."""
    assert isinstance(stratum, tuple)
    return drawn[stratum[1]] * count


def estimate(values: ArrayLike, strata: Sequence[int], sizes_S: Array, bound: float) -> tuple[float, float]:
    """Mean of all units by those seen, stratum by stratum, and its standard error: at least that of as many units that did not flip, and
    the bound where a stratum has fewer than two.
    """
    values_n, index = np.asarray(values, float), np.asarray(strata)
    has = sizes_S > 0
    seen_S, shares_S = np.bincount(index, minlength=len(sizes_S)).astype(float)[has], sizes_S[has] / sizes_S.sum()
    sums_S, squares_S = (np.bincount(index, each, minlength=len(sizes_S))[has] for each in (values_n, values_n**2))
    if (seen_S < 2).any():
        return float(values_n.mean()), bound
    means_S = sums_S / seen_S
    variance = (shares_S**2 * np.maximum(squares_S / seen_S - means_S**2, 0) / (seen_S - 1)).sum()
    z = float(stats.norm.ppf(1 - ALPHA))
    units = 1 / (shares_S**2 / seen_S).sum()  # Kish's effective number
    return float((shares_S * means_S).sum()), max(math.sqrt(variance), bound * z / (units + z * z))
