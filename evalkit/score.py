"""`evalkit score`: answers made elsewhere, scored as a run. No model is loaded."""

import gzip
import hashlib
import json
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from evalkit import execute, lm_eval_files
from evalkit.api import Generate, Generated, Request, Response, Sampling
from evalkit.data import open_source
from evalkit.errors import EvalkitError, first_line
from evalkit.progress import Reporter
from evalkit.record import SCHEMA, Sample, environment, task_entry, write_run
from evalkit.registry import resolve
from evalkit.runner import judge

FILES = {"humaneval": "given"}  # task -> the protocol under which answers are taken as they are


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """One `evalkit score`. The task may name a protocol, whose extraction is then applied to the answers."""

    task: str
    file: Path
    data: str
    out: Path
    name: str | None = None
    allow_unsafe_code: bool = False


def score(config: ScoreConfig, reporter: Reporter) -> tuple[dict[str, Any], Path]:
    """Returns run.json's content and the run's folder. Raises EvalkitError or DataError for bad input, in one line."""
    started, clock = datetime.now().astimezone().isoformat(timespec="seconds"), time.monotonic()
    name, _, protocol = config.task.partition("@")
    if name not in FILES:
        raise EvalkitError(f"task {name!r} is not scored from files; these are: {', '.join(FILES)}")
    task = resolve(f"{name}@{protocol or FILES[name]}")
    source = open_source(config.data)
    docs = {doc.id: doc for doc in task.load(source)}
    raw, answers = _read(config.file)
    if unknown := sorted(answers.keys() - docs.keys()):
        raise EvalkitError(f"{config.file}: task_id {unknown[0]!r} is none of the {len(docs)} documents of {name} in {config.data}")
    sandbox = execute.permit(config.allow_unsafe_code)
    reporter.say(f"sandbox: {sandbox}")
    chosen = [doc for doc in docs.values() if doc.id in answers]
    asked: list[Sequence[Request]] = [task.requests(doc) for doc in chosen]
    requests = [[_numbered(some[0], i) for i in range(len(answers[doc.id]))] for doc, some in zip(chosen, asked, strict=True)]
    given: list[Sequence[Response]] = [[Generated(text, "given", 0) for text in answers[doc.id]] for doc in chosen]
    folder = config.out / (config.name or f"{config.file.name.split('.')[0]}--{config.task}".lower())
    samples = judge(task, chosen, requests, given, folder, config.allow_unsafe_code, reporter)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "name": folder.name,
        "status": "complete",
        "command": " ".join(["evalkit", *sys.argv[1:]]),
        "started": started,
        "limit": None,
        "seed": Sampling().seed,
        "model": {"spec": str(config.file), "fingerprint": f"sha256:{hashlib.sha256(raw).hexdigest()}", "engine": "file"},
        "tasks": {name: _entry(task, samples, len(docs), source)},
        "environment": environment() | {"sandbox": sandbox},
        "seconds": round(time.monotonic() - clock, 3),
    }
    write_run(folder, record, {name: samples})
    lm_eval_files.write(folder / "lm_eval", record, {name: samples})
    return record, folder


def _entry(task: Any, samples: Sequence[Sample], n_total: int, source: Any) -> dict[str, Any]:
    data = {"source": source.kind, "revision": source.revision, "sha256": source.sha256()}
    return task_entry(task, samples, n_total) | {"data": data, "seconds": 0.0, "tokens": {"computed": 0, "shared": 0}}


def _numbered(request: Request, i: int) -> Generate:
    """The i-th answer to one prompt is a sample of its own."""
    assert isinstance(request, Generate)
    return Generate(request.context, request.until, request.max_new_tokens, request.temperature, i, request.messages)


def _read(path: Path) -> tuple[bytes, dict[str, list[str]]]:
    """The file's bytes, and its completions by task_id. A .jsonl or .jsonl.gz of {task_id, completion}."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise EvalkitError(f"cannot read {path}: {first_line(error)}") from None
    answers: dict[str, list[str]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            task_id, completion = row["task_id"], row["completion"]
        except (ValueError, KeyError, TypeError):
            raise EvalkitError(f'{path} line {number}: expected {{"task_id": .., "completion": ..}}') from None
        if not isinstance(task_id, str) or not isinstance(completion, str):
            raise EvalkitError(f"{path} line {number}: task_id and completion must be texts")
        answers.setdefault(task_id, []).append(completion)
    if not answers:
        raise EvalkitError(f"{path} holds no completions")
    return raw, answers
