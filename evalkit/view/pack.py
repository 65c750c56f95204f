"""The samples of one or two runs, aligned by task and document, as the compact JSON that the page reads.

The common beginning of a subject's prompts (header, worked examples) is stored once: the 60 MB of an MMLU run's samples become 4 MB.
Log-probabilities keep four decimals: the page shows three.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.runner.workload import num_shared
from evalkit.view.data import ViewedRequest, ViewedRun, ViewedSample

SHARED_ENOUGH = 80  # characters; a shorter common beginning is stored with each prompt

Packed = dict[str, Any]


def pack(runs: Sequence[ViewedRun]) -> Packed:
    """{"prefixes": [text], "samples": [..]}. Raises EvalkitError where two runs can't be laid side by side."""
    if len({run.source for run in runs}) > 1:
        ours, other = sorted(runs, key=lambda run: run.source)
        fix = f"give {ours.folder}/lm_eval instead" if (ours.source, other.source) == ("evalkit", "lm-eval") else "give two of one program"
        raise EvalkitError(f"{ours.folder} is {ours.source}'s and {other.folder} {other.source}'s; {fix}")
    tasks = list(dict.fromkeys(task for run in runs for task in run.samples))
    if len(runs) == 2 and not runs[0].samples.keys() & runs[1].samples.keys():
        names = "; ".join(f"{run.folder} has {', '.join(run.samples)}" for run in runs)
        raise EvalkitError(f"the runs have no task in common: {names}")
    prefixes: dict[str, int] = {}
    packed: list[Packed] = []
    for task in tasks:
        sides = [run.samples.get(task, {}) for run in runs]
        right_or_wrong = all(o.score is None or 0 <= o.score <= 1 for side in sides for o in side.values())
        shared = [_shared_prefixes(side.values()) for side in sides]
        for doc_id in dict.fromkeys(doc for side in sides for doc in side):
            shown = [side.get(doc_id) for side in sides]
            first = next(o for o in shown if o is not None)
            if any(o is not None and o.doc_hash != first.doc_hash for o in shown):
                raise EvalkitError(f"{task}: document {doc_id} is not the same in both runs; give runs over the same data")
            requests = [
                None if o is None else _pack_requests(o.requests, starts.get(o.group, ""), prefixes)
                for o, starts in zip(shown, shared, strict=True)
            ]
            packed.append(
                {
                    "task": task,
                    "group": first.group,
                    "id": doc_id,
                    "doc": first.doc,
                    "target": first.target,
                    "runs": [None if o is None else _pack_sample(o, right_or_wrong) for o in shown],
                    # one list where both runs were asked the same
                    "requests": requests[:1] if len(requests) == 2 and requests[0] == requests[1] else requests,
                }
            )
    return finite({"prefixes": list(prefixes), "samples": packed})


def _pack_sample(sample: ViewedSample, right_or_wrong: bool) -> Packed:
    return {
        "verdict": _verdict(sample, right_or_wrong),
        "score": sample.score,
        "extracted": sample.extracted,
        "failed": sample.extraction_failed,
        "metrics": sample.metrics,
        "responses": list(sample.responses),
        **({"judgments": sample.judgments} if sample.judgments else {}),
    }


def _verdict(sample: ViewedSample, right_or_wrong: bool) -> str:
    """`graded`: a score that is neither right nor wrong (a rating, a mean of repeats, BLEU's sentence)."""
    if sample.graded:
        return "graded"
    if sample.score is None:
        return "unscored"
    if right_or_wrong and sample.score in (0.0, 1.0):
        return "right" if sample.score else "wrong"
    return "graded"


def _pack_requests(requests: Sequence[ViewedRequest], start: str, prefixes: dict[str, int]) -> list[Packed]:
    """The document's own part of each prompt, after prefix number `prefix`; a context of null is the request's before (repeats)."""
    packed: list[Packed] = []
    before: str | None = None
    for request in requests:
        context, rest = request.context, request.settings
        if context == before and context:
            packed.append({"context": None, **rest})
        elif start and context.startswith(start):
            packed.append({"prefix": prefixes.setdefault(start, len(prefixes)), "context": context[len(start) :], **rest})
        else:
            packed.append({"context": context, **rest})
        before = context
    return packed


def _shared_prefixes(samples: Iterable[ViewedSample]) -> dict[str, str]:
    """By group: whole lines that every prompt of the group begins with."""
    contexts: dict[str, set[str]] = {}
    for sample in samples:
        contexts.setdefault(sample.group, set()).update(r.context for r in sample.requests if r.context)
    found = {}
    for group, prompts in contexts.items():
        if len(prompts) > 1:
            first = min(prompts)
            start = first[: num_shared(first, max(prompts))]
            start = start[: start.rfind("\n") + 1]
            if len(start) >= SHARED_ENOUGH:
                found[group] = start
    return found


def finite(value: Any) -> Any:
    """JSON has no infinities: they become the words that JavaScript's Number reads."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
