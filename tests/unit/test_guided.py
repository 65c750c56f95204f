"""The guided order: against every possible draw, against slow and exact arithmetic, and what it draws."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest

from evalkit.stats.guided import GuidedOrder, closest, estimate, shares
from evalkit.stats.sequential import ConfidenceSequence, blocks, expected_square, log_growth, share


def draws(strata: Sequence[Sequence[int]], drawn: Sequence[Fraction]) -> Iterator[tuple[Fraction, list[list[int]]]]:
    """(probability, units by stratum) of every draw of one block that takes these shares of the strata."""
    choices = []
    for units, share_ in zip(strata, drawn, strict=True):
        whole = int(share_ * len(units))
        rest = share_ * len(units) - whole
        counts = [(whole, 1 - rest), (whole + 1, rest)]
        choices.append([(p / math.comb(len(units), k), chosen) for k, p in counts if p for chosen in combinations(range(len(units)), k)])
    for chosen in product(*choices):
        yield math.prod((p for p, _ in chosen), start=Fraction(1)), [list(taken) for _, taken in chosen]


@pytest.mark.parametrize(
    ("strata", "drawn"),
    [
        ([[-1, -1, 0, 1], [0, 0, 0, -1]], ["3/4", "1/4"]),
        ([[0, 0, 0, 1], [-1, -1, 0, -1]], ["3/4", "3/8"]),  # the drop is where little is drawn
        ([[-1, 0], [1, 0, 0], [-1, -1]], ["1", "1/2", "1/4"]),
    ],
)
def test_no_unequal_draw_expects_a_gain(strata: list[list[int]], drawn: list[str]) -> None:
    """Two blocks, the second with shares that depend on what the first one held: the capital's expectation is 1 at most in each."""
    size = sum(map(len, strata))
    mean = sum(map(sum, strata)) / size

    def blocks_from(
        left: list[list[int]], part: Sequence[Fraction]
    ) -> Iterator[tuple[Fraction, list[float], list[float], list[list[int]]]]:
        units = sum(map(len, left))
        count = sum(p * len(each) for p, each in zip(part, left, strict=True))
        for probability, taken in draws(left, part):
            values = [left[s][i] for s, some in enumerate(taken) for i in some]
            weights = [float(count / units / part[s]) for s, some in enumerate(taken) for _ in some]
            rest = [[x for i, x in enumerate(each) if i not in some] for each, some in zip(left, taken, strict=True)]
            yield probability, [float(x) for x in values], weights, rest

    for sign in (1.0, -1.0):
        expected, total = np.zeros(2), Fraction(0)
        first = [Fraction(each) for each in drawn]
        heaviest = max(float(sum(p * len(each) for p, each in zip(first, strata, strict=True)) / size / p) for p in first)
        for p1, values1, weights1, rest in blocks_from(strata, first):
            bet = share(expected_square(0, 0.0, 0.9, 1.0), 0.9, 1.0, sign > 0, heaviest)
            one = float(log_growth(sign * np.array(values1), np.ones(len(values1)), sign * mean, 1.0, bet, weights1))
            expected[0] += float(p1) * math.exp(one)
            # as if guided: more of where a unit was lost
            second = [Fraction(1, 2) if -1 in each else Fraction(1, 3) for each in rest]
            left = sum(map(len, rest))
            after = max(float(sum(p * len(each) for p, each in zip(second, rest, strict=True)) / left / p) for p in second)
            mean_left = (size * mean - sum(values1)) / left
            for p2, values2, weights2, _ in blocks_from(rest, second):
                bet = share(expected_square(1, 0.0, 0.9, 1.0), 0.9, 1.0, sign > 0, after)
                two = float(log_growth(sign * np.array(values2), np.ones(len(values2)), sign * mean_left, 1.0, bet, weights2))
                expected[1] += float(p1 * p2) * math.exp(one + two)
                total += p1 * p2
        assert total == 1
        assert (expected <= 1 + 1e-9).all()
        assert (expected > 0.5).all()


def slow_capital(drawn: Sequence[tuple[list[int], list[Fraction], Fraction, Fraction]], size: int, mean: Fraction, sign: int) -> Fraction:
    """The largest capital after any block of (values, weights, heaviest, square), one unit at a time, in exact arithmetic; margin 1/20."""
    capital, largest = Fraction(1), Fraction(0)
    before: list[int] = []
    for values, weights, heaviest, square in drawn:
        left = (size * mean - sign * sum(before)) / (size - len(before))
        distance = Fraction(1, 20) if sign > 0 else Fraction(3, 40)
        bet = min(Fraction(9, 10) / heaviest, distance / (square + distance**2))
        for x, weight in zip(values, weights, strict=True):
            capital *= 1 - bet * weight + bet * weight * Fraction(sign * x + 1) / (left + 1)
        before += values
        largest = max(largest, capital)
    return largest


def test_weighted_blocks_agree_with_exact_arithmetic() -> None:
    rng = np.random.default_rng(0)
    drawn: list[tuple[list[int], list[Fraction], Fraction, Fraction]] = []
    found = ConfidenceSequence(60, 1.0, 0.05)
    for count in (8, 12, 9):
        values = rng.choice([-1, 0, 1], count, p=(0.2, 0.75, 0.05)).tolist()
        weights = [Fraction(int(w), 4) for w in rng.choice([1, 4, 7], count)]
        drawn.append((values, weights, Fraction(2), Fraction(count, 50)))
        found.add(values, [float(w) for w in weights], 2.0, count / 50)
    for mean in (Fraction(-1, 10), Fraction(0), Fraction(1, 50)):
        for sign, p in ((1, found.p_at_most), (-1, found.p_at_least)):
            exact = slow_capital(drawn, 60, sign * mean, sign)
            assert p(float(mean)) == pytest.approx(min(1.0, float(1 / exact)), rel=1e-6)
    for sign, bound in ((1, found.lower(0.05)), (-1, -found.upper(0.05))):
        assert (
            slow_capital(drawn, 60, Fraction(bound) - Fraction(1, 10**6), sign)
            >= 20
            > slow_capital(drawn, 60, Fraction(bound) + Fraction(1, 10**6), sign)
        )


def test_weights_beyond_what_may_be_bet_are_refused() -> None:
    found = ConfidenceSequence(10, 1.0, 0.05)
    for weights in ([1.0, 1.6], [1.0, 0.0], [1.0, math.nan]):
        with pytest.raises(ValueError, match=r"above 0 and at most 1\.5"):
            found.add([0.0, 0.0], weights, 1.5)


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_strata_of_closeness() -> None:
    gaps = [float(i * 7 % 160) for i in range(160)]
    found = closest(gaps, [f"{i}" for i in range(160)])
    assert [found.count(s) for s in range(5)] == [10, 10, 20, 40, 80]
    assert {s: max(gap for gap, each in zip(gaps, found, strict=True) if each == s) for s in range(5)} == {
        0: 9,
        1: 19,
        2: 39,
        3: 79,
        4: 159,
    }
    assert closest([1.0] * 16, list("ponmlkjihgfedcba")) == [4] * 8 + [3] * 4 + [2] * 2 + [1, 0]  # ties are by id


def test_shares() -> None:
    left = np.array([1_000.0, 1_000, 2_000, 4_000, 8_000])
    seen = left / 16
    same = shares(left, seen, np.zeros(5), 0.01, 1.0, 100)
    assert same.drawn == pytest.approx(np.full(5, 100 / 16_000))
    assert same.weights == pytest.approx(np.ones(5))
    guided = shares(left, seen, np.array([20.0, 5, 0, 0, 0]), 0.01, 1.0, 100)
    assert guided.drawn[0] == guided.drawn.max() > 1.5 * guided.drawn[4]
    assert (guided.drawn * left).sum() == pytest.approx(100)
    assert guided.weights @ (guided.drawn * left) / 100 == pytest.approx(1)  # the weights of a block have a mean of 1
    assert guided.weights.max() == guided.heaviest
    assert guided.drawn.min() / guided.drawn.max() >= 0.3 - 1e-9
    # as an array of several, and with a stratum that has none left
    both = shares(np.stack([left, left]), np.stack([seen, seen]), np.array([[0.0] * 5, [20.0, 5, 0, 0, 0]]), 0.01, 1.0, [100, 100])
    assert both.drawn == pytest.approx(np.stack([same.drawn, guided.drawn]))
    assert both.square == pytest.approx(np.array([float(same.square), float(guided.square)]))
    none = shares(np.array([0.0, 10, 20, 40, 80]), seen, np.zeros(5), 0.01, 1.0, 100)
    assert np.isfinite(none.drawn).all()
    assert none.heaviest < 10


def test_the_order_follows_what_flips() -> None:
    n = 4_000
    ids, groups = [f"d{i}" for i in range(n)], [f"g{i % 11}" for i in range(n)]
    gaps = [float(i) for i in range(n)]
    order = GuidedOrder(ids, groups, gaps, 100, 0, 0.01, 1.0)
    assert order.block.weights == [1.0] * len(order.block.units)
    drawn: list[int] = []
    while order.block.units:
        block = order.block
        drawn += block.units
        assert all(0 < weight <= block.heaviest for weight in block.weights)
        order.add([-1.0 if unit < n // 16 and unit % 3 == 0 else 0.0 for unit in block.units])
    assert sorted(drawn) == list(range(n))
    early = Counter(order.strata[unit] for unit in drawn[:800])
    assert early[0] > 1.5 * 800 / 16
    # nothing flips: each stratum gives its share
    order = GuidedOrder(ids, groups, gaps, 100, 0, 0.01, 1.0)
    seen = 0
    for _ in range(5):
        seen += len(order.block.units)
        assert order.block.heaviest == pytest.approx(1.0)
        order.add([0.0] * len(order.block.units))
    assert abs(order._seen_S[0] - seen / 16) < 15
    limited = GuidedOrder(ids, groups, gaps, 100, 0, 0.01, 1.0, 250)
    while limited.block.units:
        limited.add([0.0] * len(limited.block.units))
    assert abs(limited._seen_S.sum() - 250) < 30
    assert sum(map(len, blocks(ids, groups, 100, 0, 250))) == pytest.approx(250, abs=30)


def test_estimate() -> None:
    """Of strata that are seen in unequal shares."""
    values, strata = [-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0, 0, 0, 0, 1, 1, 1, 1]
    mean, stderr = estimate(values, strata, np.array([100.0, 300.0]), 1.0)
    assert mean == pytest.approx(-0.25 * 0.25)
    units = 1 / (0.25**2 / 4 + 0.75**2 / 4)
    assert stderr == pytest.approx(max(0.25 * math.sqrt(0.25 * 0.75 / 3), 1.6449 / (units + 1.6449**2)), rel=1e-3)
    assert estimate([0.0], [0], np.array([5.0, 5.0]), 1.0) == (0.0, 1.0)
    rng = np.random.default_rng(0)
    population = np.repeat([0.0, -1.0, 0.0, -1.0], [100, 100, 780, 20])
    index = np.repeat([0, 1], [200, 800])
    means = []
    for _ in range(400):
        chosen = np.concatenate([rng.choice(200, 80, False), 200 + rng.choice(800, 80, False)])
        means.append(estimate(population[chosen], index[chosen].tolist(), np.array([200.0, 800.0]), 1.0)[0])
    assert np.mean(means) == pytest.approx(population.mean(), abs=0.005)
