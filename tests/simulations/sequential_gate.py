"""How often a gate that stops by itself errs, and after how many documents it stops: the tables of docs/statistics.md.

    python tests/simulations/sequential_gate.py [--repeats 2000]

Each repeat draws an order of a task's documents and looks after every block, by the gate's rule and the arithmetic of
evalkit.stats.sequential; a test holds both rules to each other. Populations: n documents over strata of unequal size, of which a share is
discordant (right in one run, wrong in the other), independent or in clusters of four that change together.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evalkit.stats.paired import ALPHA, Array
from evalkit.stats.sequential import LATER, expected_square, log_growth, share, step

Counts = NDArray[np.int64]
VALUES = np.array([-1.0, 0.0, 1.0])
CLUSTER = 4
STRATA = 19
SIZES = {164: 0.08, 1_319: 0.03, 14_042: 0.01}  # documents, and a margin that they can detect


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Of all repeats: shares that passed, failed, came to the end, ever had the mean outside of an interval at 95%; documents seen."""

    passed: float
    failed: float
    to_the_end: float
    missed: float
    documents: Array


def population(units: int, lost: int, gained: int, scattered: bool) -> Counts:
    """(STRATA, 3): how many units of each stratum are lost, unchanged, gained. Unless `scattered`, flips fill the smallest strata first."""
    sizes = np.diff(np.round(np.linspace(0, np.sqrt(units), STRATA + 1) ** 2)).astype(int)
    kinds = np.repeat([0, 2, 1], [lost, gained, units - lost - gained])
    if scattered:
        kinds = np.random.default_rng(0).permutation(kinds)
    strata = np.split(kinds, np.cumsum(sizes)[:-1])
    return np.array([[np.sum(stratum == kind) for kind in range(3)] for stratum in strata])


def block_sizes(left: Counts, size: int, rng: np.random.Generator) -> Counts:
    """(repeats, STRATA): units of each stratum in a block of about `size`, or all where fewer than two blocks are left."""
    remaining = left.sum(1, keepdims=True)
    sizes = np.where(remaining < 2 * size, remaining, size) * left / np.maximum(remaining, 1)
    rounded: Counts = (np.floor(sizes) + (rng.random(sizes.shape) < sizes - np.floor(sizes))).astype(np.int64)
    return rounded


def simulate(counts: Counts, margin: float, size: int, repeats: int, rng: np.random.Generator, cluster: int = 1) -> Outcomes:
    """`counts`: (STRATA, 3) of one population, or (repeats, STRATA, 3), one for each repeat. `size`: of the first blocks, in units."""
    left = np.broadcast_to(counts, (repeats, STRATA, 3)).copy()
    total = int(left[0].sum())
    mean = (left[..., 2] - left[..., 0]).sum(1) / total
    capital = {name: np.zeros(repeats) for name in ("margin", "zero", "low", "high")}  # logarithms
    largest = {name: np.zeros(repeats) for name in capital}
    seen = np.zeros((repeats, 3))
    word, stopped, missed = np.zeros(repeats, int), np.full(repeats, total), np.zeros(repeats, bool)
    while (remaining := left.sum((1, 2))).any():
        # repeats draw about as many units as each other, so they share the sizes of the blocks
        n = seen.sum(1)
        want = max(size, int(n.mean()) // LATER)
        taken = block_sizes(left.sum(2), want, rng)
        lost = rng.hypergeometric(left[..., 0], left[..., 1] + left[..., 2], taken)
        gained = rng.hypergeometric(left[..., 2], left[..., 1], taken - lost)
        drawn = np.stack([lost, taken - lost - gained, gained], axis=-1)
        block, summed = drawn.sum(1), seen[:, 2] - seen[:, 0]
        for name, sign, claim in (("margin", 1, -margin), ("zero", -1, 0.0), ("low", 1, mean), ("high", -1, mean)):
            claimed = sign * (total * claim - summed) / np.maximum(remaining, 1)
            bet = share(expected_square(n, seen[:, 0] + seen[:, 2], margin, 1.0), margin, 1.0, sign > 0)
            capital[name] += log_growth(sign * VALUES, block, claimed, 1.0, bet)
            largest[name] = np.maximum(largest[name], capital[name])
        left, seen = left - drawn, seen + block
        going_on = left.sum((1, 2)) > 0  # of the others all is known
        p = {name: np.exp(-log) for name, log in largest.items()}
        missed |= going_on & ((p["low"] <= ALPHA / 2) | (p["high"] <= ALPHA / 2))
        passes, fails = fixed_rule(seen, margin, cluster)
        now = going_on & (word == 0) & passes & (p["margin"] <= ALPHA)
        word[now], stopped[now] = 1, seen.sum(1)[now]
        now = going_on & (word == 0) & fails & (p["zero"] < ALPHA)
        word[now], stopped[now] = -1, seen.sum(1)[now]
    passes, fails = fixed_rule(seen, margin, cluster)
    end = word == 0
    word[end & passes], word[end & fails] = 1, -1
    return Outcomes(float((word == 1).mean()), float((word == -1).mean()), float(end.mean()), float(missed.mean()), stopped * cluster)


def fixed_rule(seen: Array, margin: float, cluster: int) -> tuple[Array, Array]:
    """What the fixed gate says of each repeat's units (lost, unchanged, gained): passes, fails.

    Of independent documents by Tango's bound and the exact sign test; of clusters by t, or Tango's bound where none changed.
    """
    lost, gained, n = seen[:, 0], seen[:, 2], np.maximum(seen.sum(1), 2)
    gain = (gained - lost) / n
    z = stats.norm.ppf(1 - ALPHA)
    # Tango's score of the difference against -margin
    b = -(2 * n - gained + lost) * margin - gained - lost
    q = (np.sqrt(np.maximum(b * b - 8 * n * lost * margin * (1 + margin), 0)) - b) / (4 * n)
    variance = n * (2 * q - margin * (1 + margin))
    passes = (gained - lost + n * margin) / np.sqrt(np.maximum(variance, 1e-12)) > z
    fails = stats.binom.cdf(gained, gained + lost, 0.5) < ALPHA
    if cluster > 1:
        stderr = np.sqrt(np.maximum((gained + lost) / n - gain**2, 0) / (n - 1))
        t = stats.t.ppf(1 - ALPHA, n - 1)
        passes = np.where(stderr > 0, gain - t * stderr > -margin, passes)
        fails = np.where(stderr > 0, gain + t * stderr < 0, fails)
    return passes, fails & (gain <= -margin)


def step_of(margin: float, cluster: int) -> int:
    """The gate's block, in units."""
    return int(np.ceil(step(margin, ALPHA) / cluster))


def split(units: int, discordant: float, mean: float) -> tuple[int, int]:
    """(lost, gained) units of these shares, at least as many discordant ones as the mean needs."""
    net = round(units * mean)
    flips = max(abs(net), round(units * discordant))
    flips += (flips - net) % 2
    return (flips - net) // 2, (flips + net) // 2


def errors(repeats: int) -> None:
    rng = np.random.default_rng(1)
    limit = ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / repeats)
    print(f"{repeats:,} orders each; an error may have {100 * limit:.1f}% of them (alpha and 3 standard errors); figures in %\n")
    print(
        "| n, margin | units | flips lie | discordant | passed: drop = margin | 1.1 margins | failed: no drop | ever outside the interval |"
    )
    print("|---|---|---|---|---|---|---|---|")
    worst = 0.0
    for n, margin in SIZES.items():
        for cluster in (1, CLUSTER):
            for scattered in (True, False):
                for discordant in (0.005, 0.02, 0.05, 0.1, 0.2):
                    units, found = n // cluster, []
                    for drop in (1.0, 1.1, 0.9, 0.0):
                        # at the margin exactly or beyond: the whole number of units decides on which side
                        mean = -np.ceil(units * margin * drop) / units if drop >= 1 else -np.floor(units * margin * drop) / units
                        counts = population(units, *split(units, discordant, mean), scattered)
                        found.append(simulate(counts, margin, step_of(margin, cluster), repeats, rng, cluster))
                    missed = max(each.missed for each in found)
                    worst = max(worst, found[0].passed, found[1].passed, found[3].failed, missed)
                    cells = [found[0].passed, found[1].passed, found[3].failed, missed]
                    drawn, where = "documents" if cluster == 1 else "clusters of 4", "anywhere" if scattered else "together"
                    figures = " | ".join(f"{100 * cell:.1f}" for cell in cells)
                    print(f"| {n:,}, {100 * margin:g} | {drawn} | {where} | {100 * discordant:g} | {figures} |", flush=True)
    print(f"\nlargest: {100 * worst:.1f}%\n")


def documents(repeats: int) -> None:
    rng = np.random.default_rng(2)
    n, margin = 14_042, 0.01
    print("| candidate | documents: median | mean | nine of ten by | passed | failed |")
    print("|---|---|---|---|---|---|")
    cases = [("identical", 0.0, 0.0), *((f"no drop, {100 * d:g}% discordant", d, 0.0) for d in (0.005, 0.01, 0.02, 0.03, 0.06, 0.1, 0.2))]
    cases += [
        (f"a drop of {100 * drop:g} points, {100 * d:g}% discordant", d, -drop) for drop, d in ((0.005, 0.03), (0.02, 0.04), (0.04, 0.06))
    ]
    cases += [("a drop of 4 points, 10% discordant", 0.1, -0.04), ("a gain of 1 point, 5% discordant", 0.05, 0.01)]
    for name, discordant, mean in cases:
        counts = population(n, *split(n, discordant, mean), True)
        found = simulate(counts, margin, step_of(margin, 1), repeats, rng)
        median, high = np.quantile(found.documents, [0.5, 0.9])
        figures = f"{median:,.0f} | {found.documents.mean():,.0f} | {high:,.0f} | {100 * found.passed:.0f}% | {100 * found.failed:.0f}%"
        print(f"| {name} | {figures} |", flush=True)
    print()


def other_documents(repeats: int) -> None:
    """Populations that are themselves drawn: what a decision on these documents is worth for others like them."""
    rng = np.random.default_rng(3)
    print("| n, margin | discordant | passed, drop = margin: fixed gate | sequential | failed, no drop: fixed gate | sequential |")
    print("|---|---|---|---|---|---|")
    for n, margin in SIZES.items():
        for discordant in (0.02, 0.05, 0.1):
            cells = []
            for drop in (margin, 0.0):
                share = max(discordant, drop)
                probabilities = [(share + drop) / 2, 1 - share, (share - drop) / 2]
                sizes = population(n, 0, 0, True).sum(1)
                counts = np.stack([rng.multinomial(size, probabilities, repeats) for size in sizes], axis=1)
                found = simulate(counts, margin, step_of(margin, 1), repeats, rng)
                passes, fails = fixed_rule(counts.sum(1).astype(float), margin, 1)
                cells += [float((passes if drop else fails).mean()), found.passed if drop else found.failed]
            print(f"| {n:,}, {100 * margin:g} | {100 * discordant:g} |", " | ".join(f"{100 * cell:.1f}" for cell in cells), "|", flush=True)
    print()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2_000)
    repeats = parser.parse_args(argv).repeats
    for table in (documents, errors, other_documents):
        table(repeats)


if __name__ == "__main__":
    main()
