"""Two models' answers to the same documents: the difference of their scores, paired, and which answers changed."""

from collections.abc import Mapping, Sequence

from evalkit.comparison.compare import difference
from evalkit.fidelity.record import Answers
from evalkit.record.pairs import Pairs, RunAnswers, align, answers_of
from evalkit.record.sample import Sample
from evalkit.record.write import task_entry
from evalkit.runner.plan import Plan
from evalkit.stats.paired import Difference
from evalkit.tasks import Generated


def compare_answers(name: str, plan: Plan, reference: Sequence[Sample], copy: Sequence[Sample]) -> tuple[Answers, ...]:
    """One task's samples of both models; of a suite, an entry for each of its sets. Raises EvalkitError where they can't be paired."""
    said = {sample.doc.id: (answer_of(sample), answer_of(other)) for sample, other in zip(reference, copy, strict=True)}
    entries = [task_entry(plan.task, samples, plan.n_total, plan.data) for samples in (reference, copy)]
    if not all(entry.metrics for entry in entries):
        reasons = (entry.counts.why_no_score(entry.n) for entry in entries)
        why = next(filter(None, reasons), "a judge rates its answers")
        changed = tuple(doc for doc, (one, other) in said.items() if one != other)
        return (_answers(name, plan.task.protocol.headline, len(said), changed, why_no_score=why),)
    runs = [
        RunAnswers(which, "evalkit", which, answers_of(name, entry, (sample.row() for sample in samples)))
        for which, entry, samples in zip(("the reference", "the copy"), entries, (reference, copy), strict=True)
    ]
    return tuple(_of_pairs(pairs, said) for pairs in align(*runs))


def answer_of(sample: Sample) -> str:
    """The answer that a score is of: what was extracted, or else the texts themselves."""
    return sample.scored.extracted or "\n".join(response.text for response in sample.responses if isinstance(response, Generated))


def _of_pairs(pairs: Pairs, said: Mapping[str, tuple[str, str]]) -> Answers:
    found = difference(pairs)
    changed, lost, gained = [], 0, 0
    is_binary = found.gained is not None
    for doc, before, after in zip(pairs.ids, pairs.base, pairs.cand, strict=True):
        if before.score != after.score or said[doc][0] != said[doc][1]:
            changed.append(doc)
            lost += is_binary and (before.score, after.score) == (1.0, 0.0)
            gained += is_binary and (before.score, after.score) == (0.0, 1.0)
    flips = (lost, gained) if is_binary else (None, None)
    return _answers(pairs.task, pairs.metric, len(pairs.ids), tuple(changed), found, flips)


def _answers(
    name: str,
    metric: str,
    n: int,
    changed: tuple[str, ...],
    difference: Difference | None = None,
    flips: tuple[int | None, int | None] = (None, None),
    why_no_score: str = "",
) -> Answers:
    lost, gained = flips
    return Answers(
        name=name,
        metric=metric,
        n=n,
        difference=difference,
        why_no_score=why_no_score,
        right_to_wrong=lost,
        wrong_to_right=gained,
        other=len(changed) - (lost or 0) - (gained or 0),
        flipped=changed,
    )
