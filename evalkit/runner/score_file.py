"""`evalkit score`: answers made elsewhere, scored as a run. No model is loaded."""

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evalkit.config import RUNS, require_folder_name
from evalkit.data.sources import decoded, open_source
from evalkit.errors import EvalkitError, unknown
from evalkit.exchange import lm_eval_write
from evalkit.files import shortened
from evalkit.progress import Reporter
from evalkit.record.schema import ModelInfo, Run
from evalkit.record.write import begin, task_entry, write_run
from evalkit.runner import programs
from evalkit.runner.folder import require_own
from evalkit.runner.run import score_docs
from evalkit.tasks import CodeTask, Generate, Generated, ReadsAnswers, Request, Response, Sampling
from evalkit.tasks.registry import resolve, task_classes


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """One `evalkit score`. The task may name a protocol, whose extraction is then applied to the answers."""

    task: str
    file: Path
    data: str = "hub"
    out: str = RUNS
    name: str | None = None
    allow_unsafe_code: bool = False

    def __post_init__(self) -> None:
        require_folder_name(self.name)


def score(config: ScoreConfig, reporter: Reporter) -> tuple[Run, Path]:
    """Returns what run.json holds, and the run's folder. Raises EvalkitError or DataError for bad input, in one line."""
    clock = time.monotonic()
    task = resolve(config.task)
    if isinstance(task, ReadsAnswers) and "@" not in config.task:
        task = resolve(f"{config.task}@{task.given_protocol}")
    if not isinstance(task, ReadsAnswers):
        readers = [name for name, cls in task_classes().items() if issubclass(cls, ReadsAnswers)]
        raise unknown("task for files of answers", task.name, readers)
    source = open_source(config.data)
    docs = {doc.id: doc for doc in task.load(source)}
    raw = _bytes(config.file)
    answers = task.read_answers(decoded(raw, str(config.file)), str(config.file))
    if not answers:
        raise EvalkitError(f"{config.file} holds no answers")
    if strange := sorted(answers.keys() - docs.keys()):
        raise EvalkitError(f"{config.file}: {strange[0]!r} is none of the {len(docs)} documents of {task.protocol.task} in {config.data}")
    sandbox = programs.permit(config.allow_unsafe_code) if isinstance(task, CodeTask) else None
    if sandbox:
        reporter.say(f"sandbox: {sandbox}")
    chosen = [doc for doc in docs.values() if doc.id in answers]
    requests = [_numbered(task.requests(doc)[0], len(answers[doc.id])) for doc in chosen]
    responses: list[Sequence[Response]] = [[Generated(text, "given", 0) for text in answers[doc.id]] for doc in chosen]
    folder = Path(config.out) / shortened(config.name or run_name(config.file, config.task))
    require_own(folder, str(config.file), task.protocol)
    model = ModelInfo(spec=str(config.file), fingerprint=f"sha256:{hashlib.sha256(raw).hexdigest()}", engine="file")
    record = begin(folder.name, model, None, Sampling().seed, sandbox)
    samples = score_docs(task, chosen, requests, responses, folder, config.allow_unsafe_code, reporter)
    tasks = {task.protocol.task: task_entry(task, samples, len(docs), source.describe())}
    record = replace(record, status="complete", seconds=round(time.monotonic() - clock, 3), tasks=tasks)
    write_run(folder, record, {task.protocol.task: samples})
    lm_eval_write.write(folder / "lm_eval", record, {task.protocol.task: samples})
    return record, folder


def run_name(file: Path, task: str) -> str:
    """The name of a scored file's run: the file's whole stem, which may have dots (a.google.en.txt), and the task."""
    stem = file.name.removesuffix(".gz")
    stem = stem.rpartition(".")[0] or stem
    return re.sub(r"[^\w.@+-]+", "-", f"{stem}--{task}").lower()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EvalkitError(f"cannot read {path}: {error.strerror}") from None


def _numbered(request: Request, n: int) -> list[Request]:
    """n requests for one prompt, one for each sample."""
    assert isinstance(request, Generate)
    return [replace(request, seed=i) for i in range(n)]
