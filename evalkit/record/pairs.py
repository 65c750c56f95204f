"""What two runs answered, document by document: a run of ours as answers to compare, and any two runs paired.

Runs are paired on task and protocol, document and prompt; whatever differs is refused with one line that names it. Nothing is left out.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError, unknown
from evalkit.record.figure import MEANS_ALONE, require_count, require_figure
from evalkit.record.read import read_complete, read_samples, run_folder, samples_file
from evalkit.record.sample import SampleRow, Score, problems_of
from evalkit.record.schema import Run, TaskEntry, task_of
from evalkit.stats.estimate import Estimate
from evalkit.tasks import Loglikelihoods, Request, last_asked
from evalkit.tasks.own import in_run

TAIL = 300  # characters kept of a prompt's end
LARGEST = 1e100  # of a score: squares of more are no floats
UNEQUAL_RATINGS = "it pools all ratings, and the documents have unequal numbers of them: judge again with --retry-failed"
LOGPROB_NOISE = 1e-3  # nats: the same function computed in another order


@dataclass(frozen=True, slots=True)
class Answer:
    """One document's outcome. `said` holds all texts and log-probabilities, `shown` the one line to print; `problems`: which of run.json's
    counts it adds to, which lm-eval's samples do not tell.
    """

    doc_hash: str
    prompt_hash: str
    group: str
    cluster: str
    score: Score
    prompt: str
    target: str
    shown: str
    said: tuple[str | float, ...]
    problems: frozenset[str] = frozenset()

    def says_the_same_as(self, other: "Answer") -> bool:
        """The same texts, and log-probabilities that differ by rounding alone."""
        return len(self.said) == len(other.said) and all(
            math.isclose(a, b, rel_tol=0, abs_tol=LOGPROB_NOISE) if isinstance(a, float) and isinstance(b, float) else a == b
            for a, b in zip(self.said, other.said, strict=True)
        )

    def scores_as(self, other: "Answer") -> bool:
        """The same score, but for the rounding of the log-probabilities that it may be a sum of."""
        if isinstance(self.score, float) and isinstance(other.score, float):
            return math.isclose(self.score, other.score, rel_tol=0, abs_tol=LOGPROB_NOISE)
        return self.score == other.score


@dataclass(frozen=True, slots=True)
class TaskAnswers:
    """One task of a run, or one set of a suite. `protocol` holds the settings that must agree, by name; `answers` are by document id.

    `averagings`: "micro" (documents count the same) or "macro" (groups do); both where the task's own figure does not tell which.
    `tokenize` is BLEU's sacrebleu tokenizer by group, where it is not the default. `extracted_by`: the filter whose answers the samples'
    `extraction_failed` is about, None where it is about all that is compared.
    """

    name: str
    protocol: Mapping[str, str]
    metric: str
    averagings: frozenset[str]
    answers: Mapping[str, Answer]
    tokenize: Mapping[str, str] = field(default_factory=dict)
    lower_is_better: bool = False
    extracted_by: str | None = None

    @property
    def averaging(self) -> str:
        return "micro" if "micro" in self.averagings else "macro"


@dataclass(frozen=True, slots=True)
class RunAnswers:
    """One run: `source` is the program whose hashes of documents it has (evalkit, lm-eval, inspect, ..); `notes`: what the reader of a
    comparison must know.
    """

    path: str
    source: str
    model: str
    tasks: Mapping[str, TaskAnswers]
    notes: Sequence[str] = ()


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
    lower_is_better: bool = False

    @property
    def identical(self) -> bool:
        """Every answer and its score is the same, so there is nothing to test. Where scores of the same texts differ, these are not what
        was scored: answers may be blanked before they are published.
        """
        return all(a.says_the_same_as(b) and a.scores_as(b) for a, b in zip(self.base, self.cand, strict=True))


def read_our_answers(place: Path, wanted: Sequence[str] = (), metric: str | None = None, cluster: str | None = None) -> RunAnswers:
    """The answers of a finished run of ours. Raises EvalkitError where it can't be read, and as `run_answers`."""
    folder = run_folder(place)
    return run_answers(
        read_complete(place), place, lambda key: (read_samples(folder, key), str(samples_file(folder, key))), wanted, metric, cluster
    )


def run_answers(
    run: Run,
    place: Path,
    samples: Callable[[str], tuple[Iterable[SampleRow], str]],
    wanted: Sequence[str] = (),
    metric: str | None = None,
    cluster: str | None = None,
    source: str = "evalkit",
) -> RunAnswers:
    """The answers of a run that was read from `place`; `samples` gives a task's rows, by its key in the run, and the file that holds them.

    Raises EvalkitError where it holds no such task, metric or field, or where its samples are not those of its figures.
    """
    wanted = tuple(map(in_run, wanted))
    tasks: dict[str, TaskAnswers] = {}
    names: list[str] = []
    for key, entry in run.tasks.items():
        if wanted and not any(name.partition("/")[0] == key for name in wanted):  # it need not have the metric
            names.append(key)
            continue
        parts = {part.name: part for part in _parts(key, entry, metric)}
        names += [key, *parts]
        chosen = [part for name, part in parts.items() if not wanted or key in wanted or name in wanted]
        if chosen:
            rows, file = samples(key)
            tasks |= _task_answers(key, entry, chosen, rows, file, cluster)
    if lacking := [task for task in wanted if task not in names]:
        raise unknown(f"task in {place}:", lacking[0], dict.fromkeys(names))
    return RunAnswers(str(place), source, run.model.spec, tasks)


def tasks_of(run: Run) -> dict[str, tuple[str, ...]]:
    """What a run can be asked for, and what is then compared: "mmlu" and "mmlu@qwen" are one task, a suite is its sets."""
    found: dict[str, tuple[str, ...]] = {}
    for key, entry in run.tasks.items():
        sets = dict.fromkeys(f"{key}/{cell.set}" for cell in entry.cells if cell.name in entry.subjects)
        names = tuple(sets) or (key,)
        found |= {name: (name,) for name in names} | {f"{task_of(name)}@{entry.protocol}": (name,) for name in names} | {key: names}
    return found


def answers_of(task: str, entry: TaskEntry, rows: Iterable[SampleRow]) -> dict[str, TaskAnswers]:
    """The answers of one task that has just been run: of a suite set by set, by name. It has a figure."""
    return _task_answers(task, entry, _parts(task, entry, None), rows, task, None)


def _task_answers(
    key: str, entry: TaskEntry, parts: Sequence["_Part"], rows: Iterable[SampleRow], file: str, cluster: str | None
) -> dict[str, TaskAnswers]:
    found: dict[str, dict[str, Answer]] = {part.name: {} for part in parts}
    n = 0
    for row in rows:
        n += 1
        for part in parts:
            if not part.set or row.group.partition(":")[0] == part.set:
                if row.doc_id in found[part.name]:
                    raise EvalkitError(f"not comparable: {file} holds document {row.doc_id} twice; run it again")
                found[part.name][row.doc_id] = our_answer(row, part.metric, cluster, key)
    require_count(key, file, n, entry.n)
    tokenize = {cell.name: cell.tokenize for cell in entry.cells if cell.tokenize}
    tasks = {}
    for part in parts:
        protocol = {"protocol": f"{task_of(part.name)}@{entry.protocol}", "settings": entry.protocol_sha256}
        answers = found[part.name]
        lower = part.metric in entry.lower_is_better
        by = None if entry.cells else filter_of(entry.headline)
        tasks[part.name] = TaskAnswers(part.name, protocol, part.metric, frozenset({entry.averaging}), answers, tokenize, lower, by)
        require_count(part.name, file, len(answers), part.n)
        require_figure(tasks[part.name], part.stated, file, why=UNEQUAL_RATINGS if entry.judge else MEANS_ALONE)
    return tasks


@dataclass(frozen=True, slots=True)
class _Part:
    """What is compared of a task: a metric over the documents of one `set` ("": all), `n` of them, and the figure that run.json states."""

    name: str
    metric: str
    set: str
    n: int
    stated: float


def _parts(key: str, entry: TaskEntry, metric: str | None) -> list[_Part]:
    """A suite is compared set by set, its cells counting the same; every other task as a whole."""
    sets: dict[tuple[str, str], list[Estimate]] = {}
    for cell in entry.cells:
        if cell.name in entry.subjects and metric in (None, cell.metric):
            if cell.metric not in entry.subjects[cell.name]:
                raise EvalkitError(f"{key} has no {cell.metric} of {cell.name}; run it again")
            sets.setdefault((cell.set, cell.metric), []).append(entry.subjects[cell.name][cell.metric])
    if sets:
        return [
            _Part(f"{key}/{name}", chosen, name, sum(cell.n for cell in cells), math.fsum(cell.value for cell in cells) / len(cells))
            for (name, chosen), cells in sets.items()
        ]
    chosen = metric or entry.headline
    if chosen not in entry.metrics:
        raise unknown(f"metric of {key}", chosen, {*entry.metrics, *(cell.metric for cell in entry.cells)})
    return [_Part(key, chosen, "", entry.n, entry.metrics[chosen].value)]


def our_answer(row: SampleRow, metric: str, cluster: str | None, task: str) -> Answer:
    """One document's outcome by one metric. `cluster`: the document field that names a shared source. Raises EvalkitError."""
    if metric in row.parts:
        raise EvalkitError(
            f"{metric} of {task} is one figure of all documents together, and means over documents are compared; "
            "choose another metric with --metric, or other tasks with --tasks"
        )
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
        problems_of(row.requests, row.responses, row.extraction_failed),
    )


def filter_of(metric: str) -> str:
    """The filter in lm-eval's name of a metric (exact_match,strict-match) or in evalkit's own (exact_match_strict); "" for none."""
    return metric.partition(",")[2] or metric.partition("exact_match_")[2]


def _prompt(requests: Sequence[Request]) -> str:
    """What is asked last."""
    return last_asked(requests[-1]) if requests else ""


def score_of(value: Any, metric: str) -> Score:
    """A number, or BLEU's (reference or references, hypothesis). Raises EvalkitError for any other."""
    if isinstance(value, bool | int | float):
        try:
            number = float(value)
        except OverflowError:  # an integer beyond all floats
            number = math.inf
        if abs(number) <= LARGEST:  # false for NaN too
            return number
    if metric.startswith("bleu") and isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[1], str):
        references = tuple(value[0]) if isinstance(value[0], list | tuple) else (value[0],)
        if references and all(isinstance(reference, str) for reference in references):
            return references, value[1]
    raise EvalkitError(f"{metric} of a document is {value!r:.40}, not a number; run it again")


def cluster_of(doc: Mapping[str, Any], field: str) -> str:
    """What a document shares with its siblings, by the field that the user names."""
    if field not in doc:
        raise EvalkitError(f"--cluster {field}: documents have no such field; they have {', '.join(doc)}")
    return str(doc[field])


def align(base: RunAnswers, cand: RunAnswers) -> list[Pairs]:
    """Both runs' tasks, paired. Raises EvalkitError where tasks, protocols, documents or prompts differ: not comparable."""
    if base.source != cand.source:
        first, second = (base, cand) if base.source == "evalkit" else (cand, base)
        fix = f"give {first.path}/lm_eval instead" if {base.source, cand.source} == {"evalkit", "lm-eval"} else "give two of one program"
        raise EvalkitError(f"{first.path} is {first.source}'s and {second.path} {second.source}'s, which hash differently; {fix}")
    for run, peer in ((base, cand), (cand, base)):
        if lacking := [task for task in run.tasks if task not in peer.tasks]:
            common = ",".join(task for task in run.tasks if task in peer.tasks)
            fix = f"run it there, or pass --tasks {common}" if common else "no task is in both"
            raise EvalkitError(f"not comparable: {', '.join(lacking)} is in {run.path}, not in {peer.path}; {fix}")
    return [_pair(base.tasks[name], cand.tasks[name]) for name in base.tasks]


def _pair(base: TaskAnswers, cand: TaskAnswers) -> Pairs:
    name = base.name
    for key in {**base.protocol, **cand.protocol}:  # in their order: the protocol's name is told before its settings
        one, other = base.protocol.get(key), cand.protocol.get(key)
        if one != other:
            shown = f"BASE {one}, CAND {other}" if len(f"{one}{other}") < 80 else "see the runs' own files"
            raise EvalkitError(f"not comparable: {name}: {key} differs ({shown}); run both under one protocol and version")
    if base.metric != cand.metric:
        raise EvalkitError(f"not comparable: {name}: BASE has {base.metric}, CAND {cand.metric}; pass --metric")
    if base.lower_is_better != cand.lower_is_better:
        raise EvalkitError(f"not comparable: {name}: a lower {base.metric} is better in one of the runs only; run both with one version")
    if not (shared := base.averagings & cand.averagings):
        first, second = ("documents" if run.averaging == "micro" else "tasks" for run in (base, cand))
        raise EvalkitError(f"not comparable: {name}: BASE is a mean over {first}, CAND over {second}; run both with one version")
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
    ids, ours, theirs = zip(*pairs, strict=True)
    protocol = base.protocol.get("protocol", name)
    averaging = "micro" if "micro" in shared else "macro"
    return Pairs(name, base.metric, protocol, averaging, ids, ours, theirs, base.tokenize, base.lower_is_better)
