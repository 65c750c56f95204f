"""The gate's rule, task by task.

Decided in this order, for each task:

FAIL 1: the drop is at least the margin and real (one-sided p below alpha, 5%, Holm-adjusted over the tasks of its tier: no more than 5% of
gates fail by chance, for any number of tasks). PASS 0 if all answers are the same. CANNOT DETECT 2: the margin is below the detectable
effect, which depends on the base alone (docs/statistics.md). PASS 0: the one-sided 95% lower bound is above -margin (all tasks must pass,
so none is adjusted). INCONCLUSIVE 3: none of these.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from scipy import stats

from evalkit.comparison.compare import one_line
from evalkit.comparison.gate_outcome import Case, GateOutcome
from evalkit.comparison.policy import TIERS, Rule, Tier
from evalkit.stats.paired import ALPHA, MCNEMAR, Difference, holm
from evalkit.stats.power import POWER, documents_for

EXACTLY = 100_000  # documents up to which the exact test is asked how many it takes


def fails(d: Difference, p_drop: float, margin: float, alpha: float = ALPHA) -> bool:
    """Is the drop real, and at least the margin? `p_drop` is already adjusted for the number of tasks."""
    return p_drop < alpha and d.gain <= -margin


def passes(d: Difference, margin: float) -> bool:
    """Is a drop of the margin excluded?"""
    return d.least_gain > -margin


def adjusted(p_values: Sequence[float], tiers: Sequence[Tier], alphas: Sequence[float] = ()) -> list[float]:
    """Holm's adjusted p-values, in the order given. Each tier is a family of its own: warnings do not make a failure that blocks harder to
    see, nor it them.
    """
    found: dict[int, float] = {}
    for tier in TIERS:
        family = [i for i, each in enumerate(tiers) if each == tier]
        found |= zip(family, holm([p_values[i] for i in family], [alphas[i] for i in family] if alphas else ()), strict=True)
    return [found[i] for i in range(len(tiers))]


def decide_all(cases: Sequence[tuple[Case, Rule]]) -> tuple[GateOutcome, ...]:
    """All outcomes."""
    alphas = [rule.alpha or ALPHA for _, rule in cases]
    p_values = adjusted([case.difference.p_drop for case, _ in cases], [rule.tier for _, rule in cases], alphas)
    outcomes = []
    for (case, rule), p, alpha in zip(cases, p_values, alphas, strict=True):
        outcome = decide_case(case, p, rule.margin_of(case.difference.base), rule.allow_small_margin, alpha, bool(rule.place))
        outcomes.append(replace(outcome, tier=rule.tier))
    return tuple(outcomes)


def decide_case(
    case: Case, p_drop: float, margin: float, allow_small_margin: bool = False, alpha: float = ALPHA, by_policy: bool = False
) -> GateOutcome:
    """One task's outcome; `p_drop` is already adjusted for the number of tasks. `by_policy`: the margin is a policy's."""
    d, task = case.difference, case.names[-1]

    def outcome(word: str, reason: str, needed: int | None = None) -> GateOutcome:
        return GateOutcome(task, word, reason, margin, d, p_drop, needed, alpha=alpha)

    if fails(d, p_drop, margin, alpha):
        return outcome("fail", "a real drop, at least the margin")
    if case.identical:
        return outcome("pass", f"all {d.n:,} answers are the same")
    if margin < d.mde and not allow_small_margin:
        needed = documents_to_detect(d, margin, alpha)
        enough = math.ceil(1000 * d.mde) / 1000
        fix = f"give --margin {enough:g}, or pass --allow-small-margin"
        if by_policy:
            fix = f"let the policy say margin = {enough:g}, or allow_small_margin = true"
        reason = (
            f"margin {margin:g} is below what {one_line(task)}'s {d.n:,} documents can detect, {d.mde:.4f}: "
            f"it takes about {needed:,} documents; run more, {fix}"
        )
        return outcome("cannot detect", reason, needed)
    if passes(d, margin):
        return outcome("pass", "a drop of the margin is excluded")
    needed = documents_to_decide(d, margin, alpha)
    if p_drop < alpha:
        reason = "a real drop, which may be smaller or larger than the margin"
    else:
        reason = "neither a drop nor its absence is shown"
    return outcome("inconclusive", f"{reason}; about {needed:,} documents would decide", needed)


def documents_to_detect(d: Difference, margin: float, alpha: float = ALPHA) -> int:
    """How many documents would detect a drop of the margin, as far as the base tells; more than there are."""
    about = documents_needed(d.n, d.expected_stderr, margin, margin, alpha)
    if d.method != MCNEMAR or about > EXACTLY:
        return about
    return max(d.n + 1, documents_for(margin, d.n * d.expected_stderr**2, alpha))


def documents_to_decide(d: Difference, margin: float, alpha: float = ALPHA) -> int:
    """How many documents would distinguish this difference from the margin, or detect the margin where these do not yet."""
    distance = margin
    if d.mde <= margin:
        distance = max(d.gain + margin if d.gain > -margin else -d.gain, margin / 10)
    return documents_needed(d.n, d.stderr, distance, margin, alpha)


def documents_needed(n: int, stderr: float, distance: float, margin: float, alpha: float = ALPHA) -> int:
    """How many documents detect a drop of `distance`, if n of them have this standard error; more than n in any case."""
    z, power = (float(stats.norm.ppf(q)) for q in (1 - alpha, POWER))
    unseen = math.ceil(z * z * (1 - margin) / margin)  # needed even without any flip
    return max(math.ceil(n * ((z + power) * stderr / distance) ** 2), unseen, n + 1)
