"""What the guided order of a gate that stops by itself saves, and how often it errs: tables of docs/statistics.md.

    python tests/simulations/guided_gate.py [--repeats 2000] [--pair BASE CAND]

As sequential_gate.py, whose rule and populations it takes, with the strata of evalkit.stats.guided. Flips lie where the base's decisions
were close: the gap between its first two choices is exponential, the candidate adds noise of `noise` mean gaps, and a decision flips when
the noise is larger. `--pair` takes the gaps and the flips of two finished runs instead.
"""

import argparse
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evalkit.comparison.answers import read_answers
from evalkit.record.pairs import align
from evalkit.stats.guided import EDGES, closest, shares
from evalkit.stats.paired import ALPHA, Array
from evalkit.stats.sequential import LATER, expected_square, log_growth, share, step

Counts = NDArray[np.int64]
VALUES = np.array([-1.0, 0.0, 1.0])
SIZES = {164: 0.08, 1_319: 0.03, 14_042: 0.01}  # documents, and a margin that they can detect
STRATA = len(EDGES) + 1


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Of all repeats: shares that passed, failed, ever had the mean outside of an interval at 95%; documents seen."""

    passed: float
    failed: float
    missed: float
    documents: Array


def population(n: int, discordant: float, drop: float, noise: float) -> Counts:
    """(STRATA, 3): how many documents of each closeness are lost, unchanged, gained. Infinite noise: anywhere."""
    rng = np.random.default_rng(0)
    net = -round(n * drop)
    flips = max(abs(net), round(n * discordant))
    flips += (flips - net) % 2
    gaps = rng.exponential(1.0, n)
    chance = stats.norm.sf(gaps / noise) + 1e-12
    chosen = rng.permutation(rng.choice(n, flips, False, chance / chance.sum()))
    kinds = np.ones(n, int)
    kinds[chosen[: (flips - net) // 2]] = 0
    kinds[chosen[(flips - net) // 2 :]] = 2
    return counted(closest(gaps.tolist(), [f"{i:05}" for i in range(n)]), kinds)


def counted(strata: Sequence[int], kinds: NDArray[np.int64]) -> Counts:
    index = np.asarray(strata)
    return np.array([[int(((index == s) & (kinds == kind)).sum()) for kind in range(3)] for s in range(STRATA)])


def simulate(counts: Counts, margin: float, size: int, repeats: int, rng: np.random.Generator, guided: bool) -> Outcomes:
    """`size`: of the first blocks. Unless guided, strata give equal shares."""
    left_RS3 = np.broadcast_to(counts, (repeats, STRATA, 3)).astype(np.int64)
    seen_RS3 = np.zeros_like(left_RS3)
    total = int(counts.sum())
    mean = float((counts[:, 2] - counts[:, 0]).sum() / total)
    capital = {name: np.zeros(repeats) for name in ("margin", "zero", "low", "high")}  # logarithms
    largest = {name: np.zeros(repeats) for name in capital}
    word, stopped, missed = np.zeros(repeats, int), np.full(repeats, total), np.zeros(repeats, bool)
    while (remaining := left_RS3.sum((1, 2))).any():
        n = seen_RS3.sum((1, 2))
        want = np.maximum(size, n // LATER)
        is_last = remaining < 2 * want
        flips_RS = seen_RS3[..., 0] + seen_RS3[..., 2]
        found = shares(left_RS3.sum(-1), seen_RS3.sum(-1), flips_RS, margin, 1.0, want)
        if guided:
            drawn_RS, weights_RS = (np.where(is_last[:, None], 1.0, each) for each in (found.drawn, found.weights))
            heaviest, square = np.where(is_last, 1.0, found.heaviest), found.square
        else:
            drawn_RS = np.broadcast_to(np.where(is_last, 1.0, want / np.maximum(remaining, 1))[:, None], flips_RS.shape)
            weights_RS, heaviest = np.ones(flips_RS.shape), np.ones(repeats)
            square = expected_square(n, flips_RS.sum(1), margin, 1.0)
        expected_RS = drawn_RS * left_RS3.sum(-1)
        taken_RS = (np.floor(expected_RS) + (rng.random(expected_RS.shape) < expected_RS % 1)).astype(np.int64)
        lost = rng.hypergeometric(left_RS3[..., 0], left_RS3[..., 1] + left_RS3[..., 2], taken_RS)
        gained = rng.hypergeometric(left_RS3[..., 2], left_RS3[..., 1], taken_RS - lost)
        drawn_RS3 = np.stack([lost, taken_RS - lost - gained, gained], axis=-1)
        summed = (seen_RS3[..., 2] - seen_RS3[..., 0]).sum(1)
        values, weights = np.tile(VALUES, STRATA), np.repeat(weights_RS, 3, axis=1)
        for name, sign, claim in (("margin", 1, -margin), ("zero", -1, 0.0), ("low", 1, mean), ("high", -1, mean)):
            claimed = sign * (total * claim - summed) / np.maximum(remaining, 1)
            bet = share(square, margin, 1.0, sign > 0, heaviest)
            capital[name] += log_growth(sign * values, drawn_RS3.reshape(repeats, -1), claimed, 1.0, bet, weights)
            largest[name] = np.maximum(largest[name], capital[name])
        left_RS3, seen_RS3 = left_RS3 - drawn_RS3, seen_RS3 + drawn_RS3
        going_on = left_RS3.sum((1, 2)) > 0  # of the others all is known
        p = {name: np.exp(-log) for name, log in largest.items()}
        missed |= going_on & ((p["low"] <= ALPHA / 2) | (p["high"] <= ALPHA / 2))
        passes, fails = weighted_rule(seen_RS3, counts.sum(1), margin) if guided else fixed_rule(seen_RS3, margin)
        now = going_on & (word == 0) & passes & (p["margin"] <= ALPHA)
        word[now], stopped[now] = 1, seen_RS3.sum((1, 2))[now]
        now = going_on & (word == 0) & fails & (p["zero"] < ALPHA)
        word[now], stopped[now] = -1, seen_RS3.sum((1, 2))[now]
    passes, fails = fixed_rule(seen_RS3, margin)
    end = word == 0
    word[end & passes], word[end & fails] = 1, -1
    return Outcomes(float((word == 1).mean()), float((word == -1).mean()), float(missed.mean()), stopped.astype(float))


def fixed_rule(seen_RS3: Counts, margin: float) -> tuple[Array, Array]:
    from sequential_gate import fixed_rule as rule

    return rule(seen_RS3.sum(1).astype(float), margin, 1)


def weighted_rule(seen_RS3: Counts, sizes_S: Counts, margin: float) -> tuple[Array, Array]:
    """`SequentialTask._weighted`: passes, fails."""
    seen_RS, shares_S = seen_RS3.sum(-1), sizes_S / sizes_S.sum()
    count_RS = np.maximum(seen_RS, 2)
    means_RS = (seen_RS3[..., 2] - seen_RS3[..., 0]) / count_RS
    spread_RS = np.maximum((seen_RS3[..., 0] + seen_RS3[..., 2]) / count_RS - means_RS**2, 0) / (count_RS - 1)
    gain = (shares_S * means_RS).sum(1)
    z = stats.norm.ppf(1 - ALPHA)
    stderr = np.maximum(np.sqrt((shares_S**2 * spread_RS).sum(1)), z / (1 / (shares_S**2 / count_RS).sum(1) + z * z))
    stderr = np.where((seen_RS < 2).any(1), 1.0, stderr)
    half = stderr * stats.t.ppf(1 - ALPHA, np.maximum(seen_RS.sum(1) - 1, 1))
    return gain - half > -margin, (gain + half < 0) & (gain <= -margin)


CASES = [
    ("identical", 0.0, 0.0, 0.1),
    *((f"no drop, {100 * d:g}% discordant", d, 0.0, noise) for d in (0.005, 0.02, 0.06, 0.1) for noise in (0.1, 0.3, 1.0, np.inf)),
    *((f"a drop of {100 * drop:g} points, {100 * d:g}%", d, drop, 0.3) for drop, d in ((0.005, 0.03), (0.02, 0.04), (0.04, 0.06))),
]


def documents(repeats: int) -> None:
    n, margin = 14_042, 0.01
    print("| candidate | flips lie | flips in the closest 8th | uniform: median | mean | guided: median | mean | passed | failed |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, discordant, drop, noise in CASES:
        row(f"{name} | {place(noise)}", population(n, discordant, drop, noise), margin, repeats)


def place(noise: float) -> str:
    return "anywhere" if np.isinf(noise) else f"noise {noise:g}"


def row(name: str, counts: Counts, margin: float, repeats: int) -> None:
    flips = counts[:, 0] + counts[:, 2]
    near = f"{100 * flips[:2].sum() / flips.sum():.0f}%" if flips.any() else "-"
    size = int(np.ceil(step(margin, ALPHA)))
    plain, found = (simulate(counts, margin, size, repeats, np.random.default_rng(2), guided) for guided in (False, True))
    cells = [f"{np.median(each.documents):,.0f} | {each.documents.mean():,.0f}" for each in (plain, found)]
    print(f"| {name} | {near} | {' | '.join(cells)} | {100 * found.passed:.0f}% | {100 * found.failed:.0f}% |", flush=True)


def errors(repeats: int) -> None:
    limit = ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / repeats)
    print(f"\n{repeats:,} designs each; an error may have {100 * limit:.1f}% of them (alpha and 3 standard errors); figures in %\n")
    print("| n, margin | flips lie | discordant | passed: drop = margin | failed: no drop | ever outside the interval |")
    print("|---|---|---|---|---|---|")
    worst, rng = 0.0, np.random.default_rng(1)
    for n, margin in SIZES.items():
        for noise in (0.1, np.inf):
            for discordant in (0.005, 0.02, 0.05, 0.1, 0.2):
                drops = (np.ceil(n * margin) / n, np.floor(n * margin * 0.9) / n, 0.0)
                size = int(np.ceil(step(margin, ALPHA)))
                found = [simulate(population(n, discordant, drop, noise), margin, size, repeats, rng, True) for drop in drops]
                cells = [found[0].passed, found[2].failed, max(each.missed for each in found)]
                worst = max(worst, *cells)
                print(
                    f"| {n:,}, {100 * margin:g} | {noise:g} | {100 * discordant:g} |",
                    " | ".join(f"{100 * c:.1f}" for c in cells),
                    "|",
                    flush=True,
                )
    print(f"\nlargest: {100 * worst:.1f}%\n")


def real(name: str, gaps: Sequence[float], before: Sequence[float], after: Sequence[float], margin: float, repeats: int) -> None:
    """The flips of two models that were run, right or wrong each."""
    kinds = np.asarray(after, int) - np.asarray(before, int) + 1
    counts = counted(closest(gaps, [f"{i:05}" for i in range(len(gaps))]), kinds)
    row(f"{name} | {len(gaps):,}", counts, margin, repeats)
    found = simulate(counts, margin, int(np.ceil(step(margin, ALPHA))), repeats, np.random.default_rng(3), True)
    lost, gained = (counts[:, kind].sum() for kind in (0, 2))
    print(f"  lost {lost}, gained {gained}; the mean was ever outside the interval in {100 * found.missed:.1f}% of designs", flush=True)


def of_runs(base: str, cand: str, margin: float, repeats: int) -> None:
    """Two finished runs of one task. Where answers are texts, their length stands in for the gap: any order of closeness is valid."""
    (pairs,) = align(read_answers(base, (), None, None), read_answers(cand, (), None, None))
    scores = [[float(answer.score) for answer in run if isinstance(answer.score, float)] for run in (pairs.base, pairs.cand)]
    options = [sorted(part for part in answer.said if isinstance(part, float)) for answer in pairs.base]
    gaps = [each[-1] - each[-2] if each else float(len(answer.shown)) for each, answer in zip(options, pairs.base, strict=True)]
    real(f"{pairs.protocol}, {base} -> {cand}", gaps, *scores, margin, repeats)


def of_openai(file: str, repeats: int) -> None:
    """GSM8K's published solutions of four models, whose verdicts are published too; closeness is the base's length, which says little."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    names = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    for base, cand in permutations(names, 2):
        before, after = ([float(each[name]["is_correct"]) for each in rows] for name in (base, cand))
        real(f"GSM8K, {base} -> {cand}", [float(len(each[base]["solution"])) for each in rows], before, after, SIZES[1_319], repeats)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2_000)
    parser.add_argument("--pair", nargs=2, metavar=("BASE", "CAND"))
    parser.add_argument("--margin", type=float, default=0.01, help="of --pair")
    parser.add_argument("--solutions", metavar="FILE", help="openai_example_model_solutions.jsonl.gz")
    arguments = parser.parse_args(argv)
    if arguments.pair:
        of_runs(*arguments.pair, arguments.margin, arguments.repeats)
        return
    if arguments.solutions:
        of_openai(arguments.solutions, arguments.repeats)
        return
    documents(arguments.repeats)
    errors(arguments.repeats)


if __name__ == "__main__":
    main()
