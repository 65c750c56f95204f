"""`evalkit score mt_bench JUDGMENTS.jsonl`: judgments made elsewhere, in FastChat's layout, as runs: one a model in the file."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.data.sources import decoded, open_source
from evalkit.errors import EvalkitError
from evalkit.exchange.fastchat import Row, read_single
from evalkit.judge import score
from evalkit.judge.answered import file_name
from evalkit.judge.rating import published
from evalkit.judge.result import judged_entry
from evalkit.judge.score import Rated
from evalkit.record.write import Sample, begin, task_entry, write_run
from evalkit.tasks import Doc, Generated, Request, Response, Sampling, Scored, Task
from evalkit.tasks.registry import resolve

READER = "published"


@dataclass(frozen=True, slots=True)
class GivenRun:
    """One model's judgments of a file, as a run."""

    record: dict[str, Any]
    folder: Path


def score_judgments(task_spec: str, file: Path, data: str, out: Path, name: str | None) -> list[GivenRun]:
    """A run a model and judge, in the file's order. Raises EvalkitError where a judgment is of no known question, or too many failed."""
    clock = time.monotonic()
    task = resolve(task_spec)
    source = open_source(data)
    docs = {doc.id: doc for doc in task.load(source)}
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise EvalkitError(f"cannot read {file}: {error.strerror}") from None
    by_model: dict[tuple[str, str], list[Row]] = {}
    for row in read_single(decoded(raw, str(file)), str(file)):
        if row.question_id not in docs:
            raise EvalkitError(f"{file}: question {row.question_id} is none of the {len(docs)} of {task.name} in {data}")
        by_model.setdefault((row.model, row.judge), []).append(row)
    if not by_model:
        raise EvalkitError(f"{file} holds no judgments")
    stem = name or f"{file.name.split('.')[0]}--{task.name}".lower()
    several_judges = len({judge for _, judge in by_model}) > 1
    runs = []
    for (model, judge), rows in by_model.items():
        folder = out / f"{stem}--{file_name(model)}{f'--{file_name(judge)}' if several_judges else ''}"
        fingerprint = f"sha256:{hashlib.sha256(raw + model.encode()).hexdigest()}"
        record = begin(folder.name, {"spec": model, "fingerprint": fingerprint, "engine": "file"}, None, Sampling().seed, None)
        samples, entry = _entry(task, docs, model, judge, rows)
        record["tasks"][task.name] = entry | {"data": source.describe(), "seconds": 0.0, "tokens": {"computed": 0, "shared": 0}}
        record |= {"status": "complete", "seconds": round(time.monotonic() - clock, 3)}
        write_run(folder, record, {task.name: samples})
        runs.append(GivenRun(record, folder))
    return runs


def _entry(task: Task, docs: dict[str, Doc], model: str, judge: str, given: list[Row]) -> tuple[list[Sample], dict[str, Any]]:
    seen: dict[tuple[str, int], int] = {}
    rows: list[Rated] = []
    for row in given:
        repeat = seen[row.question_id, row.turn] = seen.get((row.question_id, row.turn), -1) + 1
        rows.append(score.rated(row.question_id, docs[row.question_id].group, row.turn, repeat, row.text, row.score))
    order = {doc_id: at for at, doc_id in enumerate(docs)}
    rows.sort(key=lambda row: order[row.question_id])
    due = [(doc.id, turn) for doc in docs.values() for turn in range(1, min(2, len(doc.fields["turns"])) + 1)]
    have = {(row.question_id, row.turn) for row in rows if row.published is not None}
    holes = [pair for pair in due if pair not in have]
    score.refuse_holes(holes, len(due), f"of {model}", "judge those again, then score the file", EvalkitError)
    last = {(row.question_id, row.turn): row for row in rows if row.published is not None}
    once = score.pooled(list(last.values()), READER)
    misread = sum(row.text is not None and published(row.text) != row.published for row in rows)
    about = {
        "model": judge,
        "rating": READER,
        "counts": score.counts(rows) | {"repeated": len(rows) - len(seen), "missing": len(holes), "score_is_not_its_texts": misread},
        # repeated rows count as often as they stand there, as upstream; this is the last rating of each turn alone
        "score_without_repeats": once.as_json() if once else None,
    }
    samples = []
    for doc in docs.values():
        mine = [row for row in rows if row.question_id == doc.id]
        if mine:
            samples.append(_sample(task, doc, mine))
    entry = task_entry(task, samples, len(docs))
    return samples, entry | judged_entry(entry["protocol_sha256"], rows, READER, about)


def _sample(task: Task, doc: Doc, rows: list[Rated]) -> Sample:
    """The answers are not in the file: what the judge said stands for them."""
    requests: list[Request] = list(task.requests(doc))
    responses: list[Response] = [Generated(row.text or "", "judgment", 0) for row in rows]
    extracted = ", ".join(f"turn {row.turn}: {'-' if row.published is None else f'{row.published:g}'}" for row in rows)
    return Sample(doc, requests, responses, Scored(score.of_question(rows, READER), extracted, ""))
