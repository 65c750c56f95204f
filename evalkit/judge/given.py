"""`evalkit score mt_bench JUDGMENTS.jsonl`: judgments made elsewhere, in FastChat's layout, as runs: one per model in the file."""

import hashlib
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from evalkit.data.rows import shown
from evalkit.data.sources import documents, open_source
from evalkit.errors import EvalkitError
from evalkit.files import decoded, require_folder, shortened
from evalkit.hashing import sha256_json
from evalkit.judge.answered import file_name
from evalkit.judge.fastchat import Row, read_single
from evalkit.judge.result import judged_entry
from evalkit.judge.score import Rated, Ratings, refuse_holes
from evalkit.record.sample import Sample
from evalkit.record.schema import DataInfo, JudgeEntry, ModelInfo, Run, TaskEntry
from evalkit.record.write import begin, task_entry, write_run
from evalkit.runner.folder import require_own
from evalkit.runner.score_file import run_name
from evalkit.tasks import Doc, Generated, JudgedTask, Request, Response, Sampling, Scored
from evalkit.tasks.registry import resolve

READER = "published"


@dataclass(frozen=True, slots=True)
class GivenRun:
    """One model's judgments of a file, as a run."""

    run: Run
    folder: Path


def score_judgments(task_spec: str, file: Path, data: str, out: Path, name: str | None) -> tuple[list[GivenRun], list[str]]:
    """A run per model and judge, in the file's order; and why each of the others has no score. Raises EvalkitError for bad input."""
    clock = time.monotonic()
    task = resolve(task_spec)
    if not isinstance(task, JudgedTask) or task.judgment_files != "fastchat":
        raise EvalkitError(f"{task.name} reads no files of judgments; make them with evalkit judge")
    require_folder(out)
    source = open_source(data)
    docs = {doc.id: doc for doc in documents(task, source)}
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise EvalkitError(f"cannot read {file}: {error.strerror}") from None
    by_model: dict[tuple[str, str], list[Row]] = {}
    for row in read_single(decoded(raw, str(file)), str(file)):
        if row.question_id not in docs:
            raise EvalkitError(f"{file}: question {shown(row.question_id)} is none of the {len(docs)} of {task.name} in {data}")
        by_model.setdefault((row.model, row.judge), []).append(row)
    if not by_model:
        raise EvalkitError(f"{file} holds no judgments")
    folders = _folders(out, name or run_name(file, task.name), list(by_model))
    for (model, _), folder in folders.items():
        require_own(folder, model, task.protocol)
    runs, refused = [], []
    for (model, judge), rows in by_model.items():
        folder = folders[model, judge]
        fingerprint = f"sha256:{hashlib.sha256(raw + model.encode('utf-8', 'replace')).hexdigest()}"
        begun = begin(folder.name, ModelInfo(spec=model, fingerprint=fingerprint, engine="file"), None, Sampling().seed, None)
        try:
            samples, entry = _entry(task, docs, source.describe(type(task)), model, judge, rows)
        except EvalkitError as error:
            refused.append(str(error))
            continue
        run = replace(begun, status="complete", seconds=round(time.monotonic() - clock, 3), tasks={task.name: entry})
        write_run(folder, run, {task.name: samples})
        runs.append(GivenRun(run, folder))
    return runs, refused


def _folders(out: Path, stem: str, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], Path]:
    """A folder for each model and judge. Names that differ only in what no file name can hold (org/m, org-m) get a digest."""
    several_judges = len({judge for _, judge in pairs}) > 1
    names = {pair: f"{stem}--{file_name(pair[0])}{f'--{file_name(pair[1])}' if several_judges else ''}" for pair in pairs}
    taken = Counter(name.lower() for name in names.values())
    return {pair: out / shortened(f"{name}--{sha256_json(pair)[:6]}" if taken[name.lower()] > 1 else name) for pair, name in names.items()}


def _entry(
    task: JudgedTask, docs: dict[str, Doc], data: DataInfo, model: str, judge: str, given: list[Row]
) -> tuple[list[Sample], TaskEntry]:
    seen: dict[tuple[str, int], int] = {}
    rows: list[Rated] = []
    for row in given:
        repeat = seen[row.question_id, row.turn] = seen.get((row.question_id, row.turn), -1) + 1
        strict = task.rating(row.text, "strict")
        score = task.on_scale(row.score)
        outside = score is None and row.score is not None
        rows.append(Rated(row.question_id, docs[row.question_id].group, row.turn, repeat, row.text, score, strict, outside))
    order = {doc_id: at for at, doc_id in enumerate(docs)}
    rows.sort(key=lambda row: order[row.question_id])
    due = [(doc.id, turn) for doc in docs.values() for turn in task.rated_turns(doc.fields["turns"])]
    have = {(row.question_id, row.turn) for row in rows if row.published is not None}
    holes = [pair for pair in due if pair not in have]
    refuse_holes(holes, len(due), f"of {model}", "judge those again, then score the file", EvalkitError)
    ratings = Ratings(rows, READER, task.scale)
    last = {(row.question_id, row.turn): row for row in rows if row.published is not None}
    once = replace(ratings, rows=list(last.values())).mean()
    misread = sum(row.text is not None and task.rating(row.text, READER) != row.published for row in rows)
    counts = replace(ratings.counts(), repeated=len(rows) - len(seen), missing=len(holes), score_is_not_its_texts=misread)
    # repeated rows all count, as upstream; `once` is the mean of each turn's last rating alone
    about = JudgeEntry(model=judge, rating=READER, counts=counts, score_without_repeats=once)
    by_question = ratings.by_question()
    samples = [_sample(task, doc, by_question[doc.id]) for doc in docs.values() if doc.id in by_question]
    entry = task_entry(task, samples, len(docs), data)
    entry = replace(entry, counts=replace(entry.counts, empty=0))  # the file holds no answers: what is empty is a judge's text
    return samples, judged_entry(entry, entry.protocol_sha256, ratings, about)


def _sample(task: JudgedTask, doc: Doc, ratings: Ratings) -> Sample:
    """The file does not hold the answers: the judge's texts stand in their place."""
    requests: list[Request] = list(task.requests(doc))
    responses: list[Response] = [Generated(row.text or "", "judgment", 0) for row in ratings.rows]
    return Sample(doc, requests, responses, Scored(ratings.values(), ratings.in_words(), ""))
