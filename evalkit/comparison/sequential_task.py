"""One task of a gate that stops by itself: the order of its documents, what was seen of them, and what follows.

At a look the fixed gate's rule (gate_rule.py) has to hold twice: on the documents seen, as if there were no others, and for all of the
base's documents, by the confidence sequence, which pays for every look (evalkit/stats/sequential.py). Once all documents are in, it is
the fixed gate. In a guided order (evalkit/stats/guided.py) the documents seen are weighted, for the fixed gate's rule too.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from scipy import stats

from evalkit.comparison.compare import difference
from evalkit.comparison.gate_outcome import Case, GateOutcome, Look
from evalkit.comparison.gate_rule import decide_case, fails, passes
from evalkit.comparison.policy import Tier
from evalkit.errors import EvalkitError
from evalkit.record.pairs import Answer, Pairs
from evalkit.stats.guided import GuidedOrder, estimate
from evalkit.stats.paired import ALPHA, Difference, t_tests
from evalkit.stats.sequential import ConfidenceSequence, blocks, step

Ask = Callable[[str, Sequence[str]], Mapping[str, Answer]]  # (task, ids of documents) -> the candidate's answers to them


def block_of(margin: float, prefixes: int, documents: int) -> int:
    """How many documents the first blocks have: as the margin suggests, and at least half of the `prefixes`, documents that take as much
    work as the beginnings that prompts share, unless that were a quarter of all.
    """
    return max(math.ceil(step(margin, ALPHA)), min(prefixes // 2, documents // 4))


class SequentialTask:
    """`pairs` has the base's answers; the candidate's in it are not looked at, and need not be known yet. `block`: documents of the first
    blocks, by default as the margin suggests; `most`: of all of them, about; `least`: before so many are seen, nothing follows.

    Raises EvalkitError where the task has no mean of scores between 0 and 1, or too few documents to detect the margin.
    """

    def __init__(
        self,
        pairs: Pairs,
        margin: float,
        order_seed: int,
        block: int | None = None,
        most: int | None = None,
        allow_small_margin: bool = False,
        tier: Tier = "blocking",
        guided: bool = False,
        least: int = 1,
        by_policy: bool = False,
    ):
        self.least, self.by_policy = least, by_policy
        self.pairs, self.margin, self.allow_small_margin, self.tier = pairs, margin, allow_small_margin, tier
        scores = [answer.score for answer in pairs.base]
        if not all(isinstance(score, float) and 0 <= score <= 1 for score in scores):
            raise EvalkitError(
                f"{pairs.task}: {pairs.metric} is no mean of scores between 0 and 1, whose bounds a look before the end needs; choose "
                "other tasks with --tasks or another --metric, or finish the candidate's run and gate both runs without --sequential"
            )
        self.place = {doc: i for i, doc in enumerate(pairs.ids)}
        self.whole = difference(replace(pairs, cand=pairs.base))  # the detectable effect is the base's alone
        weights = self._weights()
        units: dict[str, list[int]] = {}
        for i, answer in enumerate(pairs.base):
            units.setdefault(f"cluster {answer.cluster}" if answer.cluster else f"document {pairs.ids[i]}", []).append(i)
        self.units, names = list(units.values()), [f"{pairs.protocol} {name}" for name in units]
        self.weights = [len(self.units) * weight for weight in weights]
        self.bound = max(math.fsum(self.weights[i] for i in unit) for unit in self.units)
        self.sequence = ConfidenceSequence(len(self.units), self.bound, margin)
        per_unit = len(pairs.ids) / len(self.units)
        self.block = block or block_of(margin, 0, len(pairs.ids))
        strata = [tuple(sorted({pairs.base[i].group for i in unit})) for unit in self.units]
        first, all_in_all = math.ceil(self.block / per_unit), most and math.ceil(most / per_unit)
        self.guided: GuidedOrder | None = None
        if guided:
            gaps = [min(self._gap(i) for i in unit) for unit in self.units]
            self.guided = GuidedOrder(names, strata, gaps, first, order_seed, margin, self.bound, all_in_all)
            self.blocks = [self.guided.block.units]
        else:
            self.blocks = blocks(names, strata, first, order_seed, all_in_all)
        self.looks: list[Look] = []
        self.seen: dict[int, Answer] = {}
        self.fixed = Case((pairs.task, pairs.protocol), self.whole)  # the documents seen, as if there were no others
        self.difference = self.whole  # of the documents seen, with what the confidence sequence says of all
        self.outcome: GateOutcome | None = None

    def require_detectable(self) -> None:
        """Raises EvalkitError where the base's documents are too few for the margin: the fixed gate would say so after the run."""
        case = Case((self.pairs.task, self.pairs.protocol), self.whole)
        found = decide_case(case, 1.0, self.margin, self.allow_small_margin, by_policy=self.by_policy)
        if found.word == "cannot detect":
            raise EvalkitError(found.reason)

    def _weights(self) -> list[float]:
        """Of each document in the task's mean."""
        groups = [answer.group for answer in self.pairs.base]
        if self.pairs.averaging == "micro":
            return [1 / len(groups)] * len(groups)
        counts = Counter(groups)
        return [1 / (len(counts) * counts[group]) for group in groups]

    @property
    def due(self) -> list[str]:
        """The ids of the next block's documents; [] where the order has come to its end."""
        return [self.pairs.ids[i] for unit in self.blocks[0] for i in self.units[unit]] if self.blocks else []

    def look(self, answers: Mapping[str, Answer]) -> None:
        """The next block's answers are in."""
        self.seen |= {self.place[doc]: answer for doc, answer in answers.items()}
        values = [math.fsum(self.weights[i] * self._gain(i) for i in self.units[unit]) for unit in self.blocks.pop(0)]
        if self.guided:
            block = self.guided.block
            self.sequence.add(values, block.weights, block.heaviest, block.square)
            self.guided.add(values)
            self.blocks = [self.guided.block.units] if self.guided.block.units else []
        else:
            self.sequence.add(values)
        seen = sorted(self.seen)
        pairs = replace(
            self.pairs,
            ids=tuple(self.pairs.ids[i] for i in seen),
            base=tuple(self.pairs.base[i] for i in seen),
            cand=tuple(self.seen[i] for i in seen),
        )
        found = difference(pairs)
        if self.guided and not self.is_whole:
            found = self._weighted(found, self.guided)
        self.fixed = Case((pairs.task, pairs.protocol), found, pairs.identical)
        self.difference = d = self.fixed.difference if self.is_whole else self._sequential(self.fixed.difference)
        self.looks.append(Look(d.n, d.value, d.ci95, d.p_drop))

    def _sequential(self, fixed: Difference) -> Difference:
        """With the intervals and p-values of all documents that the confidence sequence allows."""
        sequence = self.sequence
        low, high = sequence.lower(ALPHA / 2), sequence.upper(ALPHA / 2)
        lower, upper = sequence.lower(ALPHA), sequence.upper(ALPHA)
        if self.pairs.lower_is_better:
            low, high, lower, upper = -high, -low, -upper, -lower
        p_rise, p_drop = sequence.p_at_most(0.0), sequence.p_at_least(0.0)
        p = min(1.0, 2 * min(p_rise, p_drop))
        bounds = replace(fixed, ci95=(low, high), lower=lower, upper=upper, p=p, p_drop=p_drop)
        method = "guided betting" if self.guided else "betting"
        return replace(bounds, expected_stderr=self.whole.expected_stderr, mde=self.whole.mde, method=method)

    def _weighted(self, d: Difference, order: GuidedOrder) -> Difference:
        """The difference of the documents seen, each closeness with its part of all: as if there were others like them, by t."""
        units = [unit for unit, members in enumerate(self.units) if members[0] in self.seen]
        gains, before = (
            [math.fsum(self.weights[i] * of(i) for i in self.units[unit]) for unit in units] for of in (self._gain, self._before)
        )
        (gain, stderr), (base, _) = (
            estimate(each, [order.strata[unit] for unit in units], order.sizes_S, self.bound) for each in (gains, before)
        )
        value = -gain if self.pairs.lower_is_better else gain
        t = stats.t(max(1, len(units) - 1))
        tests = t_tests(value, stderr, t) | {"p_drop": float(t.cdf(gain / stderr))}  # of a worse candidate, whichever way scores go
        return replace(d, base=base, cand=base + value, value=value, stderr=stderr, **tests, method="stratified t")

    def _before(self, i: int) -> float:
        score = self.pairs.base[i].score
        assert isinstance(score, float)
        return score

    def _gap(self, i: int) -> float:
        """How much likelier the base's first choice was than its second, in nats. Raises EvalkitError."""
        said = self.pairs.base[i].said
        options = sorted(part for part in said if isinstance(part, float))
        if len(options) < max(2, len(said)):
            raise EvalkitError(
                f"--order margin: {self.pairs.protocol}'s answers hold no log-probabilities of options, which tell how close a decision "
                f"was (first: document {self.pairs.ids[i]}); leave it out"
            )
        return options[-1] - options[-2]

    def _gain(self, i: int) -> float:
        before, after = self.pairs.base[i].score, self.seen[i].score
        if not (isinstance(before, float) and isinstance(after, float) and 0 <= after <= 1):
            raise EvalkitError(
                f"{self.pairs.task}: {self.pairs.metric} of document {self.pairs.ids[i]} is {after!r:.40}, not between 0 and 1"
            )
        return before - after if self.pairs.lower_is_better else after - before

    @property
    def is_whole(self) -> bool:
        """Are all documents in?"""
        return len(self.seen) == len(self.pairs.ids)

    @property
    def p_drop(self) -> float:
        """The larger of both p-values of a drop; 1 before the first look."""
        return max(self.fixed.difference.p_drop, self.difference.p_drop) if self.seen else 1.0

    def decide(self, p_drop: float) -> GateOutcome | None:
        """The outcome, if one follows by now. `p_drop` is the one above, adjusted for the number of tasks."""
        if self.is_whole:
            outcome = decide_case(self.fixed, p_drop, self.margin, self.allow_small_margin, by_policy=self.by_policy)
            return replace(outcome, looks=tuple(self.looks), of=len(self.pairs.ids), tier=self.tier)
        d, total = self.difference, len(self.pairs.ids)
        if d.n < self.least:  # the confidence sequence holds whenever one stops, so later too
            return None
        if fails(d, p_drop, self.margin):
            return self._outcome("fail", f"a real drop over all {total:,} documents, at least the margin in the {d.n:,} seen", p_drop)
        if passes(d, self.margin) and passes(self.fixed.difference, self.margin):
            return self._outcome("pass", f"a drop of the margin over all {total:,} documents is excluded after {d.n:,}", p_drop)
        return None

    def undecided(self, p_drop: float, why: str) -> GateOutcome:
        """The outcome where the gate has to stop before there is one. At least one block was seen."""
        d, total = self.difference, len(self.pairs.ids)
        is_drop = d.gain <= -self.margin
        units = self.sequence.units_to_decide(0.0 if is_drop else -self.margin, ALPHA, above=not is_drop)
        needed = min(total, max(d.n + 1, self.least, math.ceil(units * total / len(self.units))))
        enough = f"about {needed:,} would decide" if needed < total else "all of them may be too few"
        reason = f"{why} after {d.n:,} of {total:,} documents; {enough}"
        return self._outcome("inconclusive", reason, p_drop, needed)

    def _outcome(self, word: str, reason: str, p_drop: float, needed: int | None = None) -> GateOutcome:
        looks, total = tuple(self.looks), len(self.pairs.ids)
        return GateOutcome(self.pairs.protocol, word, reason, self.margin, self.difference, p_drop, needed, looks, total, self.tier)
