"""The confidence sequence of a gate that stops by itself: against slow and exact arithmetic, and against every possible draw."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest

from evalkit.stats.sequential import ConfidenceSequence, blocks, expected_square, log_growth, share

MARGIN = Fraction(1, 20)


def slow_share(before: Sequence[int], above: bool) -> Fraction:
    """The module's bet, in exact arithmetic: it supposes 5 margins of flips in the first block, later 2 over 2 / margin units."""
    distance = MARGIN if above else MARGIN * 3 / 2
    variance = (4 + Fraction(sum(x * x for x in before))) / (2 / MARGIN + len(before)) if before else 5 * MARGIN
    return min(Fraction(9, 10), distance / (variance + distance**2))


def slow_capital(drawn: Sequence[Sequence[int]], size: int, mean: Fraction, sign: int) -> Fraction:
    """The largest capital after any block, one document at a time, in exact arithmetic."""
    capital, largest = Fraction(1), Fraction(0)
    before: list[int] = []
    for block in drawn:
        left = (size * mean - sign * sum(before)) / (size - len(before))
        bet = slow_share(before, sign > 0)
        for x in block:
            capital *= 1 - bet + bet * Fraction(sign * x + 1) / (left + 1)
        before += block
        largest = max(largest, capital)
    return largest


def slow_bound(drawn: Sequence[Sequence[int]], size: int, alpha: Fraction, sign: int) -> float:
    """The lower bound of `sign` times the mean: by bisection on exact capitals."""
    everything = [sign * x for block in drawn for x in block]
    low, high = Fraction(sum(everything) - (size - len(everything)), size), Fraction(sum(everything), len(everything))
    for _ in range(25):
        middle = (low + high) / 2
        low, high = (middle, high) if slow_capital(drawn, size, middle, sign) >= 1 / alpha else (low, middle)
    return float(low)


def sequence(drawn: Sequence[Sequence[float]], size: int, scale: float = 1.0) -> ConfidenceSequence:
    """Of values within +-`scale`."""
    found = ConfidenceSequence(size, scale, scale * float(MARGIN))
    for block in drawn:
        found.add(block)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_exact_arithmetic(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(40, 60))
    values = rng.choice([-1, 0, 1], size, p=[(0.3, 0.6, 0.1), (0.02, 0.97, 0.01), (0.0, 1.0, 0.0), (0.1, 0.7, 0.2)][seed]).tolist()
    drawn = [values[:7], values[7:20], values[20:30]]
    found = sequence(drawn, size)
    for mean in (Fraction(-1, 10), Fraction(0), Fraction(1, 50)):
        for sign, p in ((1, found.p_at_most), (-1, found.p_at_least)):
            exact = slow_capital(drawn, size, sign * mean, sign)
            assert p(float(mean)) == pytest.approx(min(1.0, float(1 / exact)), rel=1e-6)
    assert found.lower(0.05) == pytest.approx(slow_bound(drawn, size, Fraction(1, 20), 1), abs=1e-6)
    assert found.upper(0.05) == pytest.approx(-slow_bound(drawn, size, Fraction(1, 20), -1), abs=1e-6)


def draws(strata: Sequence[Sequence[int]], sizes: Sequence[int]) -> Iterator[tuple[Fraction, list[list[int]]]]:
    """(probability, blocks) of every draw of blocks with these sizes, each stratum giving k or k + 1 of its units, independently."""
    if not sizes:
        yield Fraction(1), []
        return
    left = sum(map(len, strata))
    choices = []
    for units in strata:
        whole, rest = divmod(sizes[0] * len(units), left)
        counts = [(whole, 1 - Fraction(rest, left)), (whole + 1, Fraction(rest, left))]
        choices.append([(p / math.comb(len(units), k), chosen) for k, p in counts if p for chosen in combinations(range(len(units)), k)])
    for chosen in product(*choices):
        probability = math.prod((p for p, _ in chosen), start=Fraction(1))
        block = [units[i] for units, (_, taken) in zip(strata, chosen, strict=True) for i in taken]
        remaining = [[x for i, x in enumerate(units) if i not in taken] for units, (_, taken) in zip(strata, chosen, strict=True)]
        for p, others in draws(remaining, sizes[1:]):
            yield probability * p, [block, *others]


@pytest.mark.parametrize(
    ("strata", "sizes"),
    [
        ([[-1, -1, 0, 0, 0, 1, 0]], [3, 2]),
        ([[-1, -1, 0], [0, 0, 1, 0]], [3, 2]),  # the drop is in one stratum
        ([[-1, 0], [1, 0, 0], [-1, -1]], [2, 2]),
        ([[-1, -1, -1, -1], [1, 1, 1]], [4, 1]),
    ],
)
def test_no_draw_expects_a_gain(strata: list[list[int]], sizes: list[int]) -> None:
    """Over all draws the capital's expectation is 1 at most, where the claim is true, and an error at any look has a chance below alpha."""
    size = sum(map(len, strata))
    mean = sum(map(sum, strata)) / size
    for sign in (1.0, -1.0):
        expected, total, wrong = np.zeros(len(sizes)), Fraction(0), Fraction(0)
        for probability, drawn in draws(strata, sizes):
            growth = 0.0
            seen: list[int] = []
            for turn, block in enumerate(drawn):
                if block:
                    left = (size * mean - sum(seen)) / (size - len(seen))
                    square = expected_square(len(seen), sum(x * x for x in seen), 0.9, 1.0)
                    bet = share(square, 0.9, 1.0, sign > 0)  # a large one, for much to be at stake
                    growth += float(log_growth(sign * np.array(block, float), np.ones(len(block)), sign * left, 1.0, bet))
                    seen += block
                expected[turn] += float(probability) * math.exp(growth)
            found = sequence(drawn, size)
            p = found.p_at_most(mean) if sign > 0 else found.p_at_least(mean)
            wrong += probability * (p <= 0.5)  # alpha of one half: populations this small say nothing at 5%
            total += probability
        assert total == 1
        assert (expected <= 1 + 1e-9).all()
        assert wrong <= 0.5


def test_exact_when_all_are_drawn() -> None:
    found = sequence([[1.0, 0.0, -1.0], [0.0, -1.0]], 5)
    assert found.lower(0.05) == found.upper(0.05) == found.mean == pytest.approx(-0.2)
    assert (found.p_at_most(-0.2), found.p_at_most(-0.21), found.p_at_least(-0.19)) == (1.0, 0.0, 0.0)
    almost = sequence([[1.0, 0.0, -1.0], [0.0]], 5)
    assert almost.lower(0.05) == pytest.approx(-0.2)  # the one that is left may be -1
    assert almost.upper(0.05) == pytest.approx(0.2)
    assert almost.p_at_most(-0.21) == 0.0


def test_bounds_hold_together_and_never_widen() -> None:
    rng = np.random.default_rng(1)
    values = rng.choice([-1.0, 0.0, 1.0], 2_000, p=(0.04, 0.94, 0.02))
    found, last = ConfidenceSequence(2_000, 1.0, 0.05), (-1.0, 1.0)
    assert (found.lower(0.05), found.upper(0.05), found.p_at_most(0.0)) == (-1.0, 1.0, 1.0)
    for block in np.split(values, 10):
        found.add(block)
        interval = (found.lower(0.05), found.upper(0.05))
        assert last[0] - 1e-9 <= interval[0] <= values.mean() <= interval[1] <= last[1] + 1e-9
        # a bound and its p-value say the same
        if found.n < 2_000:
            assert found.p_at_most(interval[0] - 1e-6) <= 0.05 < found.p_at_most(interval[0] + 1e-6)
        last = interval


def test_values_of_clusters() -> None:
    """Units of several documents lie within a wider bound: the same values in other units give the same intervals."""
    rng = np.random.default_rng(2)
    values = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], 300, p=(0.05, 0.05, 0.8, 0.05, 0.05))
    one, other = (
        sequence([values[:100].tolist(), values[100:200].tolist()], 300),
        sequence([(3 * values[:100]).tolist(), (3 * values[100:200]).tolist()], 300, 3.0),
    )
    assert other.lower(0.05) == pytest.approx(3 * one.lower(0.05))
    assert other.upper(0.05) == pytest.approx(3 * one.upper(0.05))
    assert other.p_at_most(-0.3) == pytest.approx(one.p_at_most(-0.1))


def test_what_is_no_block() -> None:
    found = ConfidenceSequence(3, 1.0, 0.05)
    with pytest.raises(ValueError, match="of 3 units"):
        found.add([0.0] * 4)
    with pytest.raises(ValueError, match="within"):
        found.add([1.5])
    with pytest.raises(ValueError, match="within"):
        found.add([math.nan])


def test_units_to_decide() -> None:
    same = sequence([[0.0] * 30], 14_042)
    assert 60 < same.units_to_decide(-0.05, 0.05, above=True) < 120
    assert same.units_to_decide(0.0, 0.05, above=False) == 14_042  # no drop is seen
    worse = sequence([[-1.0] * 10 + [0.0] * 90], 14_042)
    assert worse.units_to_decide(-0.05, 0.05, above=True) == 14_042
    assert 100 < worse.units_to_decide(0.0, 0.05, above=False) < 400


# --- the order -------------------------------------------------------------------------------------------------------


def test_blocks_are_an_order_of_all_units() -> None:
    ids = [f"d{i}" for i in range(1_000)]
    strata = [i % 7 if i % 11 else "rare" for i in range(1_000)]
    found = blocks(ids, strata, 60, seed=0)
    assert sorted(i for block in found for i in block) == list(range(1_000))
    assert found == blocks(ids, strata, 60, seed=0) != blocks(ids, strata, 60, seed=1)
    assert all(30 < len(block) < 300 for block in found)
    for block in found[:-1]:  # a stratum's share of each block is its share of all units, but for one unit
        for stratum in set(strata):
            share = len(block) * strata.count(stratum) / 1_000
            assert abs(sum(strata[i] == stratum for i in block) - share) < 2.5
    assert blocks(ids[::-1], strata[::-1], 60, seed=0)[0] != []  # by id, not by place
    by_id = [{ids[i] for i in block} for block in found]
    assert [{ids[::-1][i] for i in block} for block in blocks(ids[::-1], strata[::-1], 60, seed=0)] == by_id


def test_every_unit_is_as_likely_to_be_drawn_first() -> None:
    ids, strata = [f"d{i}" for i in range(30)], ["a"] * 3 + ["b"] * 27
    counts = np.zeros(30)
    for seed in range(2_000):
        counts[blocks(ids, strata, 5, seed)[0]] += 1
    # 2,000 draws at 5 / 30: 333 each, with a standard deviation of 17
    assert (np.abs(counts - 2_000 * 5 / 30) < 5 * 17).all()


def test_units_by_the_few() -> None:
    assert blocks(["a"], [""], 100, 0) == [[0]]
    assert blocks([], [], 100, 0) == []
    assert sorted(map(len, blocks([f"{i}" for i in range(40)], list(range(40)), 1, 3))) != []
