"""`evalkit correct RUN --labels FILE`: the share of right answers behind the verdicts of whatever scored them, an LLM judge or a pattern.

Labels are the right verdicts on some answers: of RUN itself, whose other answers are then corrected, or of another run (`labelled`), scored
in the same way. A label names its document by id, or by its question.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError, unknown
from evalkit.record.read import read_complete, read_rows, read_samples, run_folder
from evalkit.record.sample import SampleRow
from evalkit.record.schema import Run, TaskEntry, task_of
from evalkit.stats.estimate import Estimate
from evalkit.stats.judged_share import Count, JudgeRates, corrected

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class CorrectConfig:
    """One `evalkit correct`. `right_from`: the score from which an answer counts as passed; for scores of 0 and 1 it is 1."""

    run: str
    labels: str
    labelled: str | None = None
    task: str | None = None
    metric: str | None = None
    right_from: float | None = None


@dataclass(frozen=True, slots=True)
class Correction:
    """`passed` is of the answers without a label; `value` is what they are corrected to."""

    run: Run
    task: str
    metric: str
    right_from: float
    passed: Count
    rates: JudgeRates
    value: Estimate


def correct(config: CorrectConfig) -> Correction:
    """Raises EvalkitError where files do not fit each other, or the labels say too little."""
    if config.right_from is not None and not math.isfinite(config.right_from):
        raise EvalkitError(f"--right-from is {config.right_from:g}; give a score, as in --right-from 7")
    run = read_complete(config.run)
    key, entry = _task(config, run)
    metric = config.metric or entry.headline
    scores = _scores(config.run, key, metric, config.right_from)
    if config.labelled is None:
        known, rows = scores, scores.rows
    else:
        other = read_complete(config.labelled)
        _require_same(config, key, entry, other)
        known = _scores(config.labelled, key, metric, config.right_from)
        rows = known.rows
    labels = _labels(Path(config.labels), rows)
    verdicts = [(known.passed[doc], right) for doc, right in labels.items()]
    rates = JudgeRates(
        Count(sum(passed for passed, right in verdicts if right), sum(right for _, right in verdicts)),
        Count(sum(not passed for passed, right in verdicts if not right), sum(not right for _, right in verdicts)),
    )
    rest = [passed for doc, passed in scores.passed.items() if config.labelled is not None or doc not in labels]
    if not rest:
        raise EvalkitError(
            f"{config.labels} has a label for every answer of {config.run}: their share is the score, and nothing is left to correct"
        )
    passed = Count(sum(rest), len(rest))
    return Correction(run, key, metric, scores.right_from, passed, rates, corrected(passed, rates))


def _task(config: CorrectConfig, run: Run) -> tuple[str, TaskEntry]:
    names = [key for key in run.tasks if config.task in (None, key, task_of(key), f"{task_of(key)}@{run.tasks[key].protocol}")]
    if not names:
        raise unknown(f"task in {config.run}:", str(config.task), run.tasks)
    if len(names) > 1:
        raise EvalkitError(f"{config.run} has {', '.join(names)}; choose one with --task")
    return names[0], run.tasks[names[0]]


def _require_same(config: CorrectConfig, key: str, entry: TaskEntry, other: Run) -> None:
    """The labelled answers have to be scored as those to be corrected are."""
    if key not in other.tasks:
        raise unknown(f"task in {config.labelled}:", key, other.tasks)
    if other.tasks[key].protocol_sha256 != entry.protocol_sha256:
        raise EvalkitError(
            f"{key} is not scored alike in {config.run} and {config.labelled}: run or judge both under one protocol and judge"
        )


@dataclass(frozen=True, slots=True)
class _Scores:
    rows: Mapping[str, SampleRow]
    passed: Mapping[str, bool]
    right_from: float


def _scores(run: str, key: str, metric: str, right_from: float | None) -> _Scores:
    rows = {row.doc_id: row for row in read_samples(run_folder(run), key)}
    values: dict[str, float] = {}
    for doc, row in rows.items():
        value = row.metrics.get(metric)
        if not isinstance(value, int | float):
            raise EvalkitError(
                f"{run}: document {doc} of {key} has no number as its {metric}; choose another with --metric, or judge it first"
            )
        if row.cluster:
            raise EvalkitError(
                f"{run}: documents of {key} share sources ({row.cluster}), and the correction's interval is for independent ones"
            )
        values[doc] = float(value)
    if right_from is None:
        if not {*values.values()} <= {0.0, 1.0}:
            raise EvalkitError(f"{metric} of {key} is a rating; say from which one an answer counts as right: --right-from 7")
        right_from = 1.0
    return _Scores(rows, {doc: value >= right_from for doc, value in values.items()}, right_from)


def _labels(file: Path, rows: Mapping[str, SampleRow]) -> dict[str, bool]:
    """Document -> is its answer right? Raises EvalkitError for a label that is none, or whose document is unknown, or has two."""
    by_question: dict[str, list[str]] = {}
    for doc, row in rows.items():
        if isinstance(question := row.doc.get("question"), str):
            by_question.setdefault(question, []).append(doc)
    found: dict[str, bool] = {}
    if not file.is_file():
        raise EvalkitError(f"--labels {file}: {'not a regular file' if file.exists() else 'no such file'}; give one with a label a line")
    for number, label in enumerate(read_rows(file), start=1):
        where = f"{file} line {number}"
        right = label.get("right")
        if not isinstance(right, bool) or not {"id", "question"} & label.keys():
            raise EvalkitError(f'{where} is no label; each is {{"id": .. or "question": .., "right": true or false}}')
        named = label.get("id", label.get("question"))
        docs = [str(named)] if "id" in label else by_question.get(named, []) if isinstance(named, str) else []
        if len(docs) != 1 or docs[0] not in rows:
            count = "no document" if len(docs) < 2 else f"{len(docs)} documents"
            fix = "ids are those of its samples/, where they begin with " + repr(next(iter(rows)))[:60] if "id" in label else "give its id"
            raise EvalkitError(f"{where} fits {count} of the run: {str(named)[:60]!r}; {fix}")
        if docs[0] in found:
            raise EvalkitError(f"{where} labels document {docs[0]} again; leave one label for each")
        if label.get("question", asked := rows[docs[0]].doc.get("question")) != asked:
            raise EvalkitError(f"{where}: document {docs[0]} asks another question; are the labels of these documents?")
        found[docs[0]] = right
    if not found:
        raise EvalkitError(f"{file} holds no labels")
    return found


def as_json(found: Correction) -> Mapping[str, Any]:
    """The --json file; documented in results/README.md."""
    figures = {"passed": found.passed, "sensitivity": found.rates.sensitivity, "specificity": found.rates.specificity}
    counts = {name: {"hits": count.hits, **asdict(count.share)} for name, count in figures.items()}
    head = {"schema": SCHEMA, "kind": "correction", "model": found.run.model.spec, "task": found.task, "metric": found.metric}
    return head | {"right_from": found.right_from, **counts, "corrected": asdict(found.value)}
