"""Paired statistics against scipy, statsmodels 0.15 (its figures written down here), closed forms, and by simulation."""

import functools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from evalkit.comparison.gate_outcome import Case
from evalkit.comparison.gate_rule import decide_case
from evalkit.stats.bleu import corpus_bleu, sentence_counts
from evalkit.stats.paired import ALPHA, Difference, bootstrap, holm, mcnemar, mean_of, paired, tango, unpaired

Z = scipy.stats.norm.ppf
# 40 documents in 10 clusters; statsmodels: OLS on a constant, cov_type="cluster", use_t
D = [round(((i * 7919) % 101) / 101 - 0.5 + 0.3 * ((i // 4) % 3 - 1), 6) for i in range(40)]
CLUSTERS = [str(i // 4) for i in range(40)]
SIMULATIONS = 2_000


def flips(n: int, gained: int, lost: int) -> tuple[list[float], list[float]]:
    """n right-or-wrong scores of two runs with these flips."""
    same = n - gained - lost
    return [0.0] * gained + [1.0] * (n - gained), [1.0] * gained + [0.0] * lost + [1.0] * same


def test_independent_documents_against_scipy_and_statsmodels() -> None:
    base = [0.25] * 40
    found = paired(base, [0.25 + d for d in D])
    expected = scipy.stats.ttest_rel([0.25 + d for d in D], base)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval()), abs=1e-9)
    assert found.stderr == pytest.approx(0.06180910386117517, abs=1e-9)
    assert found.p == pytest.approx(0.5300806733820588, abs=1e-9)
    assert found.p_drop == pytest.approx(scipy.stats.ttest_1samp(D, 0, alternative="less").pvalue, abs=1e-9)
    assert (found.method, found.clusters, found.mcnemar) == ("t", None, None)


def test_clustered_documents_against_statsmodels() -> None:
    found = paired([0.0] * 40, D, CLUSTERS)
    assert found.value == pytest.approx(-0.0391584, abs=1e-9)
    assert found.stderr == pytest.approx(0.0882242701391145, abs=1e-9)
    assert found.ci95 == pytest.approx((-0.23873556462784168, 0.16041876462784166), abs=1e-9)
    assert found.p == pytest.approx(0.6676298343022092, abs=1e-9)
    assert (found.method, found.clusters) == ("t, 10 clusters", 10)
    shuffled = np.random.default_rng(0).permutation(40)
    again = paired([0.0] * 40, [D[i] for i in shuffled], [CLUSTERS[i] for i in shuffled])
    assert again.stderr == pytest.approx(found.stderr, abs=1e-12)


def test_subjects_that_count_the_same() -> None:
    groups = ["a"] * 30 + ["b"] * 10
    found = paired([0.0] * 40, D, groups=groups)
    a, b = D[:30], D[30:]
    assert found.value == pytest.approx((np.mean(a) + np.mean(b)) / 2, abs=1e-12)
    assert found.stderr == pytest.approx(math.hypot(scipy.stats.sem(a), scipy.stats.sem(b)) / 2, abs=1e-12)
    # clusters within one group are the micro case again
    assert paired([0.0] * 40, D, CLUSTERS, ["x"] * 40).stderr == pytest.approx(0.0882242701391145, abs=1e-9)


def test_mcnemar_is_exact() -> None:
    for gained, lost, expected in ((3, 11, 0.057373046875), (0, 5, 0.0625), (40, 60, 0.05688793364098089), (7, 7, 1.0), (0, 0, 1.0)):
        assert mcnemar(gained, lost) == pytest.approx(expected, abs=1e-9)
    found = paired(*flips(200, 3, 11))
    assert (found.gained, found.lost, found.method) == (3, 11, "McNemar")
    assert found.p == found.mcnemar == pytest.approx(0.057373046875, abs=1e-9)
    assert found.p_drop == pytest.approx(scipy.stats.binomtest(3, 14, alternative="less").pvalue, abs=1e-9)


def test_errors_are_tested_as_their_mirror_image_is() -> None:
    """A metric of 0 and 1 of which less is better is given negated: the same exact test, the same flips."""
    base, cand = [1.0] * 390 + [0.0] * 10, [0.0] * 4 + [1.0] * 387 + [0.0] * 9
    right, wrong = paired(base, cand), paired([s - 1 for s in base], [s - 1 for s in cand]).negated()
    assert (wrong.method, wrong.gained, wrong.lost) == (right.method, right.gained, right.lost) == ("McNemar", 1, 4)
    assert (wrong.gain, wrong.least_gain, wrong.p, wrong.p_drop, wrong.mde) == pytest.approx(
        (right.gain, right.least_gain, right.p, right.p_drop, right.mde)
    )
    assert wrong.ci95 == pytest.approx((-right.ci95[1], -right.ci95[0]))


@pytest.mark.parametrize(("gained", "lost", "n"), [(3, 11, 200), (0, 4, 40), (40, 60, 500), (1, 0, 30), (351, 351, 14_042)])
def test_tangos_bounds_solve_the_score_equation(gained: int, lost: int, n: int) -> None:
    """The statistic at each bound, its nuisance rate found by maximising the likelihood numerically, is the quantile."""

    def score(delta: float) -> float:
        def minus_log_likelihood(q: float) -> float:
            parts = ((gained, q + delta), (lost, q), (n - gained - lost, 1 - 2 * q - delta))
            return -sum(count * math.log(max(rate, 1e-300)) for count, rate in parts if count)

        edges = max(0.0, -delta), (1 - delta) / 2
        q = scipy.optimize.minimize_scalar(minus_log_likelihood, bounds=edges, method="bounded", options={"xatol": 1e-13}).x
        return (gained - lost - n * delta) / math.sqrt(n * (2 * q + delta - delta * delta))

    low, high = tango(gained, lost, n, 0.95)
    assert (score(low), score(high)) == pytest.approx((Z(0.975), -Z(0.975)), abs=2e-4)  # the maximiser's precision, not the bound's


def test_tangos_closed_forms() -> None:
    z2 = Z(0.975) ** 2
    for n in (5, 140, 1_319):
        assert tango(0, 0, n, 0.95) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), abs=1e-9)
    assert tango(3, 11, 200, 0.9) == pytest.approx([-x for x in tango(11, 3, 200, 0.9)[::-1]], abs=1e-9)
    assert tango(0, 5, 5, 0.95)[0] == -1.0
    # all else equal, many documents: the Wald interval
    assert tango(5_000, 5_000, 10**6, 0.95)[1] == pytest.approx(Z(0.975) * 1e-4, rel=1e-3)


def test_no_flip_is_no_certainty() -> None:
    found = paired([1.0] * 140, [1.0] * 140)
    assert found.stderr == 0
    assert found.lower < -0.018
    assert found.mde > -found.lower  # five flips are to be seen, and -lower is the rate of none
    clustered = paired([1.0] * 140, [1.0] * 140, [str(i // 10) for i in range(140)])
    assert clustered.lower < found.lower  # 14 independent units, not 140
    assert paired([0.5] * 3, [0.25] * 3, ["same"] * 3).ci95[0] <= -0.25  # one cluster shows nothing
    assert mean_of([found, found]).lower == pytest.approx(found.lower)
    with pytest.raises(ValueError, match="no pairs"):
        paired([], [])


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005, 0.6]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.6], abs=1e-9)
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_holm_over_levels_of_their_own() -> None:
    """By hand: p / alpha is 0.25, 0.4 and 0.5, of which the first is rejected below 1/3, the second below 1/2, the last below 1."""
    alphas = [0.1, 0.05, 0.01]
    adjusted = holm([0.025, 0.02, 0.005], alphas)
    assert adjusted == pytest.approx([3 * 0.025, 2 * 0.02, max(0.005, 0.8 * 0.01)], abs=1e-12)
    assert all(p < alpha for p, alpha in zip(adjusted, alphas, strict=True))
    # none is tested above its own level, whatever the others show
    assert holm([0.001, 0.02], [0.05, 0.01])[1] == pytest.approx(0.02)
    # one level for all is Holm's own, to the last bit
    p_values = np.random.default_rng(0).random(9).tolist()
    assert holm(p_values, [0.05] * 9) == holm(p_values)


@pytest.mark.parametrize(("n", "right", "drop", "discordant"), [(1_319, 0.6, 0.05, 0.08), (164, 0.7, 0.1, 0.15)])
def test_a_relative_drop_at_its_bound(n: int, right: float, drop: float, discordant: float) -> None:
    """The margin is a share of the base's measured score: a candidate with exactly that drop passes in no more than 5%."""
    rng, draws, passed = np.random.default_rng(0), 500, 0
    lost, gained = (discordant + drop * right) / 2, (discordant - drop * right) / 2
    for _ in range(draws):
        base = rng.random(n) < right
        cand = np.where(base, rng.random(n) >= lost / right, rng.random(n) < gained / (1 - right))
        d = paired(base.astype(float).tolist(), cand.astype(float).tolist())
        passed += d.lower > -drop * d.base
    assert 0.01 * draws < passed < (0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)) * draws


def test_the_family_wise_error_over_levels_of_their_own() -> None:
    """With three true hypotheses it is at most the mean of their levels; with the last one false, of the two others."""
    rng, alphas, draws = np.random.default_rng(1), [0.01, 0.05, 0.15], 20_000
    for false in (0, 1):
        wrong = 0
        for p in rng.random((draws, 3)).tolist():
            tried = [*p[:2], 1e-9] if false else p
            found = [q < alpha for q, alpha in zip(holm(tried, alphas), alphas, strict=True)]
            wrong += any(found[: 3 - false])
        mean = sum(alphas[: 3 - false]) / (3 - false)
        assert 0.8 * mean < wrong / draws < mean + 3 * math.sqrt(mean / draws)


def test_the_mean_of_tasks() -> None:
    one, two = paired(*flips(400, 10, 30)), paired(*flips(100, 6, 2))
    found = mean_of([one, two])
    assert found.value == pytest.approx((one.value + two.value) / 2, abs=1e-12)
    assert found.stderr == pytest.approx(math.hypot(one.stderr, two.stderr) / 2, abs=1e-12)


# percentage points of full benchmarks, as docs/statistics.md has them
@pytest.mark.parametrize(
    ("n", "share", "mde"),
    [(14_042, 0.6, 0.47), (14_042, 0.9, 0.29), (1_319, 0.6, 1.56), (1_319, 0.9, 0.96), (164, 0.6, 4.53), (164, 0.9, 4.07)],
)
def test_detectable_effects(n: int, share: float, mde: float) -> None:
    """They are the base's alone: the same for a candidate that flips 1% and for one that loses everything."""
    right = round(n * share)
    base = [1.0] * right + [0.0] * (n - right)
    few, all_lost = (paired(base, [0.0] * lost + base[lost:]) for lost in (n // 100, right))
    assert 100 * few.mde == pytest.approx(mde, abs=0.006)
    assert few.mde == all_lost.mde >= (Z(0.95) + Z(0.8)) * math.sqrt(0.2) * scipy.stats.sem(base)


def test_the_assumed_correlation_is_what_it_says() -> None:
    """Scores of a base and a candidate that correlate by 0.9: the expected standard error is the observed one."""
    rng = np.random.default_rng(3)
    base = rng.normal(size=20_000)
    cand = 0.9 * base + math.sqrt(1 - 0.9**2) * rng.normal(size=20_000)
    found = paired(base.tolist(), cand.tolist())
    assert found.expected_stderr == pytest.approx(found.stderr, rel=0.02)
    clusters = [str(i // 4) for i in range(20_000)]
    assert paired(base.tolist(), cand.tolist(), clusters).expected_stderr == pytest.approx(found.stderr, rel=0.04)


@pytest.mark.parametrize(("right", "n", "mde"), [(8_776, 14_042, 1.44), (811, 1_319, 4.71), (56, 164, 13.0)])
def test_unpaired_detectable_effects(right: int, n: int, mde: float) -> None:
    p = right / n
    stderr = math.sqrt(p * (1 - p) / n)
    assert 100 * unpaired(p, stderr, p, stderr, n).mde == pytest.approx(mde, abs=0.03)


# --- resampling ------------------------------------------------------------------------------------------------------


def test_bootstrap_of_a_mean_finds_its_standard_error() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(size=(400, 1))
    cand = base + rng.normal(-0.02, 0.3, size=(400, 1))
    found = bootstrap(base, cand, lambda rows: float(rows.mean()))
    exact = paired(base[:, 0].tolist(), cand[:, 0].tolist())
    assert found.stderr == pytest.approx(exact.stderr, rel=0.05)
    assert found.ci95 == pytest.approx(exact.ci95, abs=0.2 * exact.stderr)
    assert found.p_drop == pytest.approx(exact.p_drop, abs=0.02)
    assert found == bootstrap(base, cand, lambda rows: float(rows.mean()))
    clusters = [str(i // 4) for i in range(400)]
    shared = base + np.repeat(rng.normal(0, 0.3, 100), 4)[:, None]
    clustered = bootstrap(base, shared, lambda rows: float(rows.mean()), clusters)
    assert clustered.clusters == 100
    by_hand = paired(base[:, 0].tolist(), shared[:, 0].tolist(), clusters).stderr
    assert clustered.stderr == pytest.approx(by_hand, rel=0.08)


def test_corpus_bleu_is_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    words = "the a cat dog house runs sees big small red on under near".split()
    rng = np.random.default_rng(2)
    references = [" ".join(rng.choice(words, 12)) for _ in range(60)]
    worse = [" ".join(w if rng.random() < 0.7 else "x" for w in r.split()[: rng.integers(6, 13)]) for r in references]
    better = [" ".join(w if rng.random() < 0.9 else "x" for w in r.split()) for r in references]
    rows = [sentence_counts([([r], h) for r, h in zip(references, answers, strict=True)]) for answers in (better, worse)]
    for counts, answers in zip(rows, (better, worse), strict=True):
        assert 100 * corpus_bleu(counts) == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score, abs=1e-9)
    found = bootstrap(*rows, corpus_bleu, resamples=300)
    assert found.value < -0.2
    assert found.upper < 0
    assert found.p_drop < 0.01


# --- simulation ------------------------------------------------------------------------------------------------------


def simulate(rng: np.random.Generator, n: int, discordant: float, drop: float) -> Difference:
    lost, gained, _ = rng.multinomial(n, ((discordant + drop) / 2, (discordant - drop) / 2, 1 - discordant))
    return of_flips(n, int(gained), int(lost))


@functools.cache  # the same few counts come again and again
def of_flips(n: int, gained: int, lost: int) -> Difference:
    return paired(*flips(n, gained, lost))


@pytest.mark.parametrize(("n", "discordant"), [(60, 0.08), (500, 0.05), (1_319, 0.02)])
def test_without_a_difference_the_gate_fails_at_most_at_its_level(n: int, discordant: float) -> None:
    rng = np.random.default_rng(3)
    # the smallest margin there is: nothing but the test stands between chance and a failure
    words = [decide_case(Case("t", d), d.p_drop, 1e-9).word for d in (simulate(rng, n, discordant, 0.0) for _ in range(SIMULATIONS))]
    assert words.count("fail") / SIMULATIONS <= ALPHA + 1.96 * math.sqrt(ALPHA * (1 - ALPHA) / SIMULATIONS)


def test_holm_keeps_the_level_over_many_tasks() -> None:
    rng = np.random.default_rng(4)
    failed = 0
    for _ in range(SIMULATIONS // 4):
        several = [simulate(rng, 500, 0.06, 0.0) for _ in range(4)]
        adjusted = holm([d.p_drop for d in several])
        failed += any(decide_case(Case("t", d), p, 1e-9).word == "fail" for d, p in zip(several, adjusted, strict=True))
    assert failed / (SIMULATIONS // 4) <= ALPHA + 1.96 * math.sqrt(ALPHA * (1 - ALPHA) / (SIMULATIONS // 4))


def word(d: Difference, margin: float) -> str:
    """The gate's word on one task."""
    return decide_case(Case("t", d), d.p_drop, margin).word


def test_a_drop_of_twice_the_detectable_effect_fails() -> None:
    rng = np.random.default_rng(5)
    n, discordant = 1_319, 0.05
    margin = (Z(0.95) + Z(0.8)) * math.sqrt(discordant / n)
    words = [word(d, margin) for d in (simulate(rng, n, discordant, 2 * margin) for _ in range(SIMULATIONS))]
    assert words.count("fail") / SIMULATIONS >= 0.95


def test_a_drop_of_the_margin_seldom_passes() -> None:
    rng = np.random.default_rng(6)
    n, discordant = 1_319, 0.05
    margin = (Z(0.95) + Z(0.8)) * math.sqrt(discordant / n)
    at_margin = [word(d, margin) for d in (simulate(rng, n, discordant, margin) for _ in range(SIMULATIONS))]
    assert at_margin.count("pass") / SIMULATIONS <= ALPHA + 0.012
    none = [word(d, margin) for d in (simulate(rng, n, discordant, 0.0) for _ in range(SIMULATIONS))]
    assert none.count("pass") / SIMULATIONS == pytest.approx(0.8, abs=0.04)  # as many as the test finds of drops of that size


def test_clustered_intervals_cover_the_truth_and_others_do_not() -> None:
    rng = np.random.default_rng(7)
    count, size, truth = 30, 8, -0.02
    clusters = [str(i // size) for i in range(count * size)]
    covered = naive = 0
    few = SIMULATIONS // 8  # the naive interval misses far more often than it may: that shows at once
    for i in range(SIMULATIONS):
        d = (truth + np.repeat(rng.normal(0, 0.2, count), size) + rng.normal(0, 0.3, count * size)).tolist()
        none = [0.0] * len(d)
        low, high = paired(none, d, clusters).ci95
        covered += low <= truth <= high
        if i < few:
            low, high = paired(none, d).ci95
            naive += low <= truth <= high
    assert covered / SIMULATIONS == pytest.approx(0.95, abs=0.015)
    assert naive / few < 0.85


def test_a_change_that_is_the_same_everywhere_is_no_certainty() -> None:
    """A standard error of 0: the interval is Tango's for scores of right or wrong, and never of no width."""
    five = paired([1.0] * 20, [0.0] * 20, [str(i // 4) for i in range(20)])
    assert (five.ci95, five.p_drop, five.method) == (pytest.approx(tango(0, 5, 5, 0.95)), pytest.approx(0.5**5), "no spread, 5 clusters")
    drops = [paired([0.8] * n, [0.7] * n) for n in (2, 5, 50, 500)]
    for d in drops:
        assert d.stderr == pytest.approx(0, abs=1e-12)
        assert d.ci95[0] < d.lower < d.value < d.upper < d.ci95[1]
        assert (d.ci95[1] < 0) == (d.p < 0.05)  # the test and its interval agree
        assert d.changed_alike
    assert [d.p_drop for d in drops] == sorted((d.p_drop for d in drops), reverse=True)
    assert drops[1].p_drop > 0.05 > drops[2].p_drop
    gain = paired([0.7] * 50, [0.8] * 50)
    assert (gain.ci95, gain.p_drop) == (pytest.approx((-drops[2].ci95[1], -drops[2].ci95[0])), pytest.approx(1 - drops[2].p_drop))
    few = paired([1.0] * 20, [0.0] * 20, groups=["a", "a", *["b"] * 18])  # two documents are half of the figure
    assert few.ci95[1] > paired([1.0] * 20, [0.0] * 20, groups=["a", "b"] * 10).ci95[1]
    alone = paired([0.5], [0.3])
    assert (alone.ci95, alone.p) == ((-0.2, 0.2), 1.0)
    corpus = bootstrap(np.ones((9, 1)), np.zeros((9, 1)), lambda rows: float(rows.mean()))
    assert (corpus.stderr, corpus.method, corpus.ci95) == (0, "no spread", pytest.approx(tango(0, 9, 9, 0.95)))
    whole = mean_of([drops[1], drops[1]])
    assert whole.ci95[0] < whole.value < whole.ci95[1]
    assert whole.p_drop > 0.05
    lost = unpaired(1.0, 0.0, 0.0, 0.0, 5)
    assert (lost.value, lost.ci95) == (-1.0, pytest.approx(tango(0, 5, 5, 0.95)))
