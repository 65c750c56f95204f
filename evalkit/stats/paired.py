"""Two runs on the same documents: the difference, its uncertainty, and the smallest difference that could have been detected.

d = candidate - base for each document, in the metric's unit (accuracy: 0 to 1). The standard error is sd(d) / sqrt(n), over
clusters where documents share a source (Miller 2024, "Adding error bars to evals", arXiv 2411.00640). Right-or-wrong scores of
independent documents get the exact McNemar test and Tango's score interval (1998, Statistics in Medicine 17: 891-908), the counterpart of
Wilson's for a paired difference, valid even if few documents flip, or none. All others use t. Corpus metrics (BLEU) are resampled.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from evalkit.stats.clustered import clustered_stderr
from evalkit.stats.estimate import Z95, macro
from evalkit.stats.power import POWER, detectable_drop

ALPHA = 0.05  # one-sided level of the gate, unless its policy has another; intervals are two-sided at 1 - ALPHA
CORRELATION = 0.9  # assumed between the scores of a base and its candidate, for the detectable effect; see docs/statistics.md
RESAMPLES = 2_000
LEAST_SPREAD = 1e-12  # of the largest score: a smaller standard error is rounding
MCNEMAR = "McNemar"  # the method's name for independent right-or-wrong scores
NO_SPREAD = "no spread"  # the method's name where all documents changed alike
Interval = tuple[float, float]
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate minus base. `lower`, `upper`: one-sided bounds at 1 - alpha. `p`: two-sided; `p_drop`: one-sided, small for a worse
    candidate, which is one with a higher score where `lower_is_better`.

    `mde`: the smallest drop that this method's one-sided test at alpha finds with POWER, as far as the base tells: from `expected_stderr`,
    the difference's standard error for a candidate whose scores have CORRELATION with the base's. `gained`, `lost`: flips, if scores
    are right or wrong.
    """

    n: int
    base: float
    cand: float
    value: float
    stderr: float
    ci95: Interval
    lower: float
    upper: float
    p: float
    p_drop: float
    expected_stderr: float
    mde: float
    method: str
    clusters: int | None = None
    gained: int | None = None
    lost: int | None = None
    lower_is_better: bool = False

    @property
    def gain(self) -> float:
        """How much better the candidate is: negative for a drop in quality."""
        return -self.value if self.lower_is_better else self.value

    @property
    def least_gain(self) -> float:
        """The one-sided bound of `gain`, which a gate holds against its margin."""
        return -self.upper if self.lower_is_better else self.lower

    def negated(self) -> "Difference":
        """The same where lower scores are better, out of a difference of the negated scores."""
        low, high = self.ci95
        return replace(
            self,
            base=-self.base,
            cand=-self.cand,
            value=-self.value,
            ci95=(-high, -low),
            lower=-self.upper,
            upper=-self.lower,
            lower_is_better=True,
        )

    @property
    def changed_alike(self) -> bool:
        """Did all documents change by the same amount, so that their spread says nothing of the uncertainty?"""
        return self.method.startswith(NO_SPREAD) and bool(self.value)

    @property
    def mcnemar(self) -> float | None:
        """Exact two-sided McNemar p, which assumes independent documents. None if scores are not right or wrong."""
        return None if self.gained is None or self.lost is None else mcnemar(self.gained, self.lost)


def paired(
    base: Sequence[float], cand: Sequence[float], clusters: Sequence[str] = (), groups: Sequence[str] = (), alpha: float = ALPHA
) -> Difference:
    """Mean difference over documents, or over `groups` of equal weight (macro), with a standard error over `clusters` if given.

    `base`, `cand`: one score per document, in the same order; `alpha`: of the one-sided bounds and the detectable effect.

    Raises ValueError for no documents or lengths that differ.
    """
    a, b = np.asarray(base, float), np.asarray(cand, float)
    if not len(a) or len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} documents: no pairs")
    d, n = b - a, len(a)
    units = len(set(clusters)) if clusters else n
    before, after, value = (_mean(x, groups) for x in (a, b, d))
    own = clusters if units < n else ()
    stderr, expected = _stderr(d, own, groups), _expected(_stderr(a, own, groups))
    both = np.concatenate([a, b])
    binary = any(bool(np.isin(both, scores).all()) for scores in ((0.0, 1.0), (0.0, -1.0)))  # -1: an error, where lower scores are better
    gained, lost = (int((d > 0).sum()), int((d < 0).sum())) if binary else (None, None)
    span = 1.0 if binary else float(max(a.max(), b.max()) - min(a.min(), b.min()))
    tests: dict[str, Any]
    if gained is not None and lost is not None and units == n and not groups:
        method, tests = MCNEMAR, _exact_tests(gained, lost, n, alpha)
        mde = detectable_drop(n, n * expected**2, alpha)
    else:
        method, spread = "t" if units == n else f"t, {units:,} clusters", _t(max(units - 1, 1))
        mde = max(_detectable(expected, spread, alpha), span * _unseen(units, alpha)) if units > 1 else span
        largest = max(1.0, float(np.abs([a, b]).max()))
        if units > 1 and stderr > LEAST_SPREAD * largest:
            tests = t_tests(value, stderr, spread, alpha)
        else:
            method = method.replace("t", NO_SPREAD, 1)
            tests = _no_spread(value, span if units == 1 else largest, _independent(_weights(d, groups)[0], own), alpha)
    return Difference(
        n,
        before,
        after,
        value,
        stderr,
        **tests,
        expected_stderr=expected,
        mde=mde,
        method=method,
        clusters=units if units < n else None,
        gained=gained,
        lost=lost,
    )


def unpaired(base: float, base_stderr: float, cand: float, cand_stderr: float, n: int) -> Difference:
    """Difference of two figures of which only means and standard errors are known, such as a published one; normal approximation."""
    stderr = math.hypot(base_stderr, cand_stderr)
    tests = t_tests(cand - base, stderr, stats.norm) if stderr else _no_spread(cand - base, 1.0, n)
    expected = math.sqrt(2) * base_stderr  # taking the candidate's standard error to be the base's, and the two figures to be independent
    mde = max(_detectable(expected, stats.norm), _unseen(n, ALPHA))
    return Difference(n, base, cand, cand - base, stderr, **tests, expected_stderr=expected, mde=mde, method="unpaired")


def bootstrap(
    base: Array,
    cand: Array,
    statistic: Callable[[Array], float],
    clusters: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    alpha: float = ALPHA,
) -> Difference:
    """Paired bootstrap of a corpus metric: `statistic` of one row per document; both runs are resampled alike (whole clusters if given).

    Percentile intervals; p from the resampled differences about their own mean (Koehn 2004). The same seed gives the same answer.
    """
    n = len(base)
    names = _codes(clusters) if clusters else np.arange(n)
    members = np.split(np.argsort(names, kind="stable"), np.cumsum(np.bincount(names))[:-1])
    rng = np.random.default_rng(seed)
    before, after = statistic(base), statistic(cand)
    value, draws, base_draws = after - before, np.empty(resamples), np.empty(resamples)
    for i in range(resamples):
        chosen = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        base_draws[i] = statistic(base[chosen])
        draws[i] = statistic(cand[chosen]) - base_draws[i]
    low, lower, upper, high = (float(q) for q in np.quantile(draws, [ALPHA / 2, alpha, 1 - alpha, 1 - ALPHA / 2]))
    shifted, stderr = draws - draws.mean(), float(draws.std(ddof=1))
    expected = _expected(float(base_draws.std(ddof=1)))
    counted = len(members) if len(members) < n else None
    mde = max(_detectable(expected, stats.norm, alpha), _unseen(len(members), alpha))
    if stderr <= LEAST_SPREAD:
        tests = _no_spread(value, 1.0, len(members), alpha)
        return Difference(n, before, after, value, stderr, **tests, expected_stderr=expected, mde=mde, method=NO_SPREAD, clusters=counted)
    p = float((1 + (np.abs(shifted) >= abs(value)).sum()) / (1 + resamples))
    p_drop = float((1 + (shifted <= value).sum()) / (1 + resamples))
    return Difference(n, before, after, value, stderr, (low, high), lower, upper, p, p_drop, expected, mde, "bootstrap", counted)


def mean_of(differences: Sequence[Difference]) -> Difference:
    """The mean of several tasks' differences, with equal weights; tasks are independent."""
    count = len(differences)
    base, cand = (math.fsum(getattr(d, name) for d in differences) / count for name in ("base", "cand"))
    expected, mde = (math.sqrt(math.fsum(getattr(d, name) ** 2 for d in differences)) / count for name in ("expected_stderr", "mde"))
    # a task that changed as one has no standard error of its own: that which its interval would have
    changed = [d.stderr or (d.value != 0) * (d.ci95[1] - d.ci95[0]) / (2 * Z95) for d in differences]
    stderr = math.sqrt(math.fsum(each**2 for each in changed)) / count
    n = sum(d.n for d in differences)
    if stderr or cand != base:
        tests = t_tests(cand - base, stderr, stats.norm)
    else:  # no task shows a difference: the mean is no more certain than they are
        low, high, lower, upper, mde = np.mean([(*d.ci95, d.lower, d.upper, d.mde) for d in differences], axis=0).tolist()
        tests = {"ci95": (low, high), "lower": lower, "upper": upper, "p": 1.0, "p_drop": 1.0}
    return Difference(n, base, cand, cand - base, stderr, **tests, expected_stderr=expected, mde=mde, method="mean of tasks")


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar p: the binomial test of `gained` among the flips against one half."""
    return float(stats.binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def tango(gained: int, lost: int, n: int, confidence: float) -> Interval:
    """Tango's score interval of (gained - lost) / n, two-sided, from -1 to 1."""
    z, observed = float(stats.norm.ppf((1 + confidence) / 2)), (gained - lost) / n

    def score(delta: float) -> float:
        # the maximum-likelihood rate of `lost` under a true difference delta (Tango's q21), and the resulting variance
        b = (2 * n - gained + lost) * delta - gained - lost
        c = -lost * delta * (1 - delta)
        q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        return (gained - lost - n * delta) / math.sqrt(variance) if variance > 1e-12 else math.copysign(math.inf, observed - delta)

    def bound(target: float, end: float) -> float:
        inner = observed + math.copysign(1e-12, end - observed)
        if abs(observed - end) < 1e-9 or (score(end) - target) * (score(inner) - target) > 0:
            return end
        return float(optimize.brentq(lambda delta: max(min(score(delta), 1e9), -1e9) - target, inner, end, xtol=1e-13))

    return bound(z, -1.0), bound(-z, 1.0)


def holm(p_values: Sequence[float], alphas: Sequence[float] = ()) -> list[float]:
    """Holm's adjusted p-values, in the order given: below ALPHA with the family-wise error at most ALPHA.

    With `alphas`, one for each: below its own with the family-wise error at most the largest, and none is tested above its own. With k
    hypotheses left one is rejected if p / alpha <= 1 / k. While no true one has been, k is at least their number m, so the first of them
    to be rejected has p <= alpha / m: the chance is at most the sum of their alpha / m, their mean alpha.
    """
    alphas = alphas or [1.0] * len(p_values)
    largest = max(alphas, default=1.0)
    scaled = [p * (largest / alpha) for p, alpha in zip(p_values, alphas, strict=True)]
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(scaled)), key=scaled.__getitem__)):
        running = max(running, (len(scaled) - rank) * scaled[i])
        adjusted[i] = min(1.0, running * (alphas[i] / largest))
    return adjusted


def _codes(names: Sequence[str]) -> NDArray[np.int64]:
    """A number for each name: 0, 1, .. in order of first appearance."""
    codes: dict[str, int] = {}
    return np.array([codes.setdefault(name, len(codes)) for name in names])


def _weights(d: Array, groups: Sequence[str]) -> tuple[Array, Array]:
    """A weight for each document (they sum to 1), and d minus its group's mean."""
    if not groups:
        return np.full(len(d), 1 / len(d)), d - d.mean()
    index = _codes(groups)
    counts = np.bincount(index)
    means = np.bincount(index, d) / counts
    return 1 / (len(counts) * counts[index]), d - means[index]


def _by_group(values: Array, groups: Sequence[str]) -> list[list[float]]:
    found: dict[str, list[float]] = {}
    for group, value in zip(groups, values.tolist(), strict=True):
        found.setdefault(group, []).append(value)
    return list(found.values())


def _mean(values: Array, groups: Sequence[str]) -> float:
    """The same arithmetic as run.json's figures, so that they agree to the last digit."""
    return macro(_by_group(values, groups)).value if groups else math.fsum(values) / len(values)


def _stderr(d: Array, clusters: Sequence[str], groups: Sequence[str]) -> float:
    """The standard error of `_mean`, over clusters if given."""
    if clusters:
        weights, centred = _weights(d, groups)
        return clustered_stderr((weights * centred).tolist(), clusters)[0]
    if groups:
        return macro(_by_group(d, groups)).stderr
    return float(d.std(ddof=1) / math.sqrt(len(d))) if len(d) > 1 else 0.0


def _expected(base_stderr: float) -> float:
    """The difference's standard error for a candidate whose scores have CORRELATION with the base's."""
    return base_stderr * math.sqrt(2 * (1 - CORRELATION))


@functools.cache
def _t(degrees: int) -> Any:
    return stats.t(degrees)


def _detectable(stderr: float, spread: Any, alpha: float = ALPHA) -> float:
    return stderr * float(spread.ppf(1 - alpha) + spread.ppf(POWER))


def _unseen(units: float, alpha: float) -> float:
    """The rate of flips that `units` independent documents without a flip cannot exclude (Tango's bound for none)."""
    z2 = float(stats.norm.ppf(1 - alpha)) ** 2
    return z2 / (units + z2)


def t_tests(value: float, stderr: float, spread: Any, alpha: float = ALPHA) -> dict[str, Any]:
    """Interval, one-sided bounds and p-values of a Difference whose value over its standard error has this distribution."""
    half, one_sided = stderr * float(spread.ppf(1 - ALPHA / 2)), stderr * float(spread.ppf(1 - alpha))
    t = value / stderr if stderr else math.copysign(math.inf, value)
    return {
        "ci95": (value - half, value + half),
        "lower": value - one_sided,
        "upper": value + one_sided,
        "p": float(2 * spread.sf(abs(t))),
        "p_drop": float(spread.cdf(t)),
    }


def _exact_tests(gained: int, lost: int, n: int, alpha: float) -> dict[str, Any]:
    lower, upper = tango(gained, lost, n, 1 - 2 * alpha)
    p_drop = float(stats.binom.cdf(gained, gained + lost, 0.5))
    return {"ci95": tango(gained, lost, n, 1 - ALPHA), "lower": lower, "upper": upper, "p": mcnemar(gained, lost), "p_drop": p_drop}


def _no_spread(value: float, span: float, units: float, alpha: float = ALPHA) -> dict[str, Any]:
    """All documents changed alike, or not at all: their spread says nothing, but as many documents may have missed others that changed
    otherwise, by up to `span`. For right-or-wrong scores these are Tango's bounds. p is at least that of the sign test.
    """
    if units < 2:  # one independent unit says nothing of the others
        return {"ci95": (-span, span), "lower": -span, "upper": span, "p": 1.0, "p_drop": 1.0}

    def bounds(level: float) -> Interval:
        unseen = _unseen(units, level)
        return max(-span, (1 - unseen) * value - unseen * span), min(span, (1 - unseen) * value + unseen * span)

    # where a bound of that level is 0
    tail = max(float(stats.norm.sf(math.sqrt(units * abs(value) / span))), 0.5**units)
    (lower, upper), p_drop = bounds(alpha), tail if value < 0 else 1 - tail
    return {"ci95": bounds(ALPHA / 2), "lower": lower, "upper": upper, "p": min(1.0, 2 * tail), "p_drop": p_drop if value else 1.0}


def _independent(weights: Array, clusters: Sequence[str]) -> float:
    """How many documents of equal weight say as much as these, or their clusters: Kish's effective number."""
    sums = np.bincount(_codes(clusters), weights) if clusters else weights
    return float(weights.sum() ** 2 / (sums**2).sum())
