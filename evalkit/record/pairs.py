"""What two runs answered, document by document: a run of ours as answers to compare, and any two runs paired.

Runs are paired on task and protocol, document and prompt; whatever differs is refused with one line that names it. Nothing is left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError, unknown
from evalkit.record.read import read_complete, read_samples, run_folder
from evalkit.record.sample import SampleRow, Score
from evalkit.record.schema import TaskEntry, task_of
from evalkit.tasks import Generate, Loglikelihoods, Request

TAIL = 300  # characters kept of a prompt's end
LOGPROB_NOISE = 1e-3  # nats: the same function computed in another order


@dataclass(frozen=True, slots=True)
class Answer:
    """One document's outcome, repeats averaged. `said` holds all texts and log-probabilities, `shown` the one line to print."""

    doc_hash: str
    prompt_hash: str
    group: str
    cluster: str
    score: Score
    prompt: str
    target: str
    shown: str
    said: tuple[str | float, ...]

    def says_the_same_as(self, other: "Answer") -> bool:
        """The same texts, and log-probabilities that differ by rounding alone."""
        return len(self.said) == len(other.said) and all(
            math.isclose(a, b, rel_tol=0, abs_tol=LOGPROB_NOISE) if isinstance(a, float) and isinstance(b, float) else a == b
            for a, b in zip(self.said, other.said, strict=True)
        )


@dataclass(frozen=True, slots=True)
class TaskAnswers:
    """One task of a run, or one set of a suite. `protocol` holds the settings that must agree, by name; `answers` are by document id.

    `tokenize` is BLEU's sacrebleu tokenizer by group, where it is not the default.
    """

    name: str
    protocol: Mapping[str, str]
    metric: str
    averaging: str
    answers: Mapping[str, Answer]
    tokenize: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunAnswers:
    """One run: `source` is evalkit or lm-eval (they hash documents differently)."""

    path: str
    source: str
    model: str
    tasks: Mapping[str, TaskAnswers]


@dataclass(frozen=True, slots=True)
class Pairs:
    """One task of both runs, aligned: base and candidate answers in the same order."""

    task: str
    metric: str
    protocol: str
    averaging: str
    ids: tuple[str, ...]
    base: tuple[Answer, ...]
    cand: tuple[Answer, ...]
    tokenize: Mapping[str, str] = field(default_factory=dict)

    @property
    def identical(self) -> bool:
        """Every answer is the same, so there is nothing to test."""
        return all(a.says_the_same_as(b) for a, b in zip(self.base, self.cand, strict=True))


def read_our_answers(place: Path, wanted: Sequence[str] = (), metric: str | None = None, cluster: str | None = None) -> RunAnswers:
    """The answers of a finished run of ours. Raises EvalkitError where it can't be read, or holds no such metric or field."""
    run = read_complete(place)
    tasks = {}
    for key, entry in run.tasks.items():
        parts = {name: part for name, part in _parts(key, entry, metric).items() if not wanted or key in wanted or name in wanted}
        if not parts:
            continue
        found: dict[str, dict[str, list[Answer]]] = {name: {} for name in parts}
        for row in read_samples(run_folder(place), key):
            for name, (chosen, set_) in parts.items():
                if not set_ or row.group.partition(":")[0] == set_:
                    found[name].setdefault(row.doc_id, []).append(_our_answer(row, chosen, cluster, key))
        tokenize = {cell.name: cell.tokenize for cell in entry.cells if cell.tokenize}
        for name, (chosen, _) in parts.items():
            if not found[name]:
                raise EvalkitError(f"{place} has no samples of {name}; run it again")
            protocol = {"protocol": f"{task_of(name)}@{entry.protocol}", "settings": entry.protocol_sha256}
            merged = {doc: merge(repeats) for doc, repeats in found[name].items()}
            tasks[name] = TaskAnswers(name, protocol, chosen, entry.averaging, merged, tokenize)
    return RunAnswers(str(place), "evalkit", run.model.spec, tasks)


def _parts(key: str, entry: TaskEntry, metric: str | None) -> dict[str, tuple[str, str]]:
    """What is compared of a task, by name: the metric, and the set whose documents it is of ("": all). A suite is compared set by set."""
    if measured := [cell for cell in entry.cells if cell.name in entry.subjects]:
        return {f"{key}/{cell.set}": (cell.metric, cell.set) for cell in measured if metric in (None, cell.metric)}
    chosen = metric or entry.headline
    if chosen not in entry.metrics:
        raise unknown(f"metric of {key}", chosen, entry.metrics)
    return {key: (chosen, "")}


def _our_answer(row: SampleRow, metric: str, cluster: str | None, task: str) -> Answer:
    if metric not in row.metrics:
        raise EvalkitError(f"document {row.doc_id} of {task} has no {metric}; run it again")
    said: list[str | float] = []
    for response in row.responses:
        said += [float(p) for p in response.logprobs] if isinstance(response, Loglikelihoods) else [response.text]
    texts = [part for part in said if isinstance(part, str)]
    return Answer(
        row.doc_hash,
        row.prompt_hash,
        row.group,
        row.cluster if cluster is None else cluster_of({"group": row.group, **row.doc}, cluster),
        score_of(row.metrics[metric], metric),
        _prompt(row.requests)[-TAIL:],
        row.target,
        " ".join(texts) or row.extracted,
        tuple(said),
    )


def _prompt(requests: Sequence[Request]) -> str:
    """The last request's context, or the last message of the conversation in its place."""
    if not requests:
        return ""
    last = requests[-1]
    return last.messages[-1][1] if isinstance(last, Generate) and last.messages else last.context


def merge(repeats: Sequence[Answer]) -> Answer:
    """Repeats of one document, averaged; a corpus metric can't be."""
    first = repeats[0]
    if len(repeats) == 1:
        return first
    numbers = [r.score for r in repeats if isinstance(r.score, float)]
    if len(numbers) < len(repeats):
        raise EvalkitError("a corpus metric with several answers a document can't be compared; run one answer a document")
    prompts = "+".join(r.prompt_hash for r in repeats)
    said = tuple(part for r in repeats for part in r.said)
    score = math.fsum(numbers) / len(numbers)
    return Answer(first.doc_hash, prompts, first.group, first.cluster, score, first.prompt, first.target, first.shown, said)


def score_of(value: Any, metric: str) -> Score:
    """A number, or BLEU's (reference or references, hypothesis). Raises EvalkitError for any other."""
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    if metric.startswith("bleu") and isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[1], str):
        return (tuple(value[0]) if isinstance(value[0], list | tuple) else (value[0],)), value[1]
    raise EvalkitError(f"{metric} of a document is {value!r:.40}, not a number; run it again")


def cluster_of(doc: Mapping[str, Any], field: str) -> str:
    """What a document shares with its siblings, by the field that the user names."""
    if field not in doc:
        raise EvalkitError(f"--cluster {field}: documents have no such field; they have {', '.join(doc)}")
    return str(doc[field])


def align(base: RunAnswers, cand: RunAnswers) -> list[Pairs]:
    """Both runs' tasks, paired. Raises EvalkitError where tasks, protocols, documents or prompts differ: not comparable."""
    if base.source != cand.source:
        ours, other = (base, cand) if base.source == "evalkit" else (cand, base)
        raise EvalkitError(f"{ours.path} is evalkit's and {other.path} lm-eval's, which hash differently; give {ours.path}/lm_eval instead")
    for run, peer in ((base, cand), (cand, base)):
        if lacking := [task for task in run.tasks if task not in peer.tasks]:
            common = ",".join(task for task in run.tasks if task in peer.tasks)
            fix = f"run it there, or pass --tasks {common}" if common else "no task is in both"
            raise EvalkitError(f"not comparable: {', '.join(lacking)} is in {run.path}, not in {peer.path}; {fix}")
    return [_pair(base.tasks[name], cand.tasks[name]) for name in base.tasks]


def _pair(base: TaskAnswers, cand: TaskAnswers) -> Pairs:
    name = base.name
    for key in base.protocol.keys() | cand.protocol.keys():
        one, other = base.protocol.get(key), cand.protocol.get(key)
        if one != other:
            shown = f"BASE {one}, CAND {other}" if len(f"{one}{other}") < 80 else "see the runs' own files"
            raise EvalkitError(f"not comparable: {name}: {key} differs ({shown}); run both under one protocol and version")
    if base.metric != cand.metric:
        raise EvalkitError(f"not comparable: {name}: BASE has {base.metric}, CAND {cand.metric}; pass --metric")
    if base.answers.keys() != cand.answers.keys():
        extra, lacking = len(base.answers.keys() - cand.answers.keys()), len(cand.answers.keys() - base.answers.keys())
        what = f"{extra:,} documents are only in BASE, {lacking:,} only in CAND"
        raise EvalkitError(f"not comparable: {name}: {what}; run both with the same --data and --limit")
    pairs = [(doc, answer, cand.answers[doc]) for doc, answer in base.answers.items()]
    for what, attribute, fix in (
        ("data", "doc_hash", "run both on the same --data"),
        ("prompts", "prompt_hash", "run both with the same protocol, shots, chat template and seed"),
    ):
        if differ := [doc for doc, a, b in pairs if getattr(a, attribute) != getattr(b, attribute)]:
            count = f"{len(differ):,} of {len(pairs):,} documents"
            raise EvalkitError(f"not comparable: {name}: the {what} of {count} differ (first: {differ[0]}); {fix}")
    ids, first, second = zip(*pairs, strict=True)
    protocol = base.protocol.get("protocol", name)
    return Pairs(name, base.metric, protocol, base.averaging, ids, first, second, base.tokenize)
