"""`evalkit score`: answers made elsewhere, scored as a run. No model is loaded."""

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evalkit.config import RUNS, require_folder_name
from evalkit.data.sources import documents, open_source
from evalkit.errors import EvalkitError, unknown
from evalkit.exchange import lm_eval_write
from evalkit.files import decoded, require_folder, shortened
from evalkit.progress import Reporter
from evalkit.record.sample import Sample
from evalkit.record.schema import ModelInfo, Run
from evalkit.record.write import begin, task_entry, write_run
from evalkit.runner import programs
from evalkit.runner.folder import require_own
from evalkit.runner.given_answers import end_markers, read_texts
from evalkit.runner.run import score_docs
from evalkit.tasks import CodeTask, Generate, Generated, JudgedTask, ReadsAnswers, Request, Response, Sampling, ScoresTexts, Task
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
    task = _reader(config.task)
    folder = Path(config.out) / shortened(config.name or run_name(config.file, config.task))
    require_folder(folder)
    source = open_source(config.data)
    loaded = documents(task, source)
    docs = {doc.id: doc for doc in loaded}
    raw = _bytes(config.file)
    name, text = str(config.file), decoded(raw, str(config.file))
    if isinstance(task, ReadsAnswers):
        given = task.read_answers(text, name, loaded)
        answers = given.texts
        if given.protocol and "@" not in config.task:
            task = resolve(f"{config.task}@{given.protocol}")
    else:
        assert isinstance(task, ScoresTexts)
        answers = {doc_id: [said] for doc_id, said in read_texts(task, text, name, loaded).items()}
    if not answers:
        raise EvalkitError(f"{config.file} holds no answers")
    if strange := sorted(answers.keys() - docs.keys()):
        raise EvalkitError(f"{config.file}: {strange[0]!r} is none of the {len(docs)} documents of {task.protocol.task} in {config.data}")
    if marked := end_markers([said for some in answers.values() for said in some]):
        reporter.say(f"{config.file}: {marked}")
    sandbox = programs.permit(config.allow_unsafe_code) if isinstance(task, CodeTask) else None
    if sandbox:
        reporter.say(f"sandbox: {sandbox}")
    chosen = [doc for doc in docs.values() if doc.id in answers]
    requests = [_asked(task.requests(doc)[0], len(answers[doc.id])) for doc in chosen]
    responses: list[Sequence[Response]] = [[Generated(text, "given", 0) for text in answers[doc.id]] for doc in chosen]
    require_own(folder, str(config.file), task.protocol)
    model = ModelInfo(spec=str(config.file), fingerprint=f"sha256:{hashlib.sha256(raw).hexdigest()}", engine="file")
    record = begin(folder.name, model, None, Sampling().seed, sandbox)
    if isinstance(task, ReadsAnswers) or not isinstance(task, ScoresTexts):
        samples = score_docs(task, chosen, requests, responses, folder, config.allow_unsafe_code, reporter)
    else:
        scores = [task.score_text(doc, answers[doc.id][0]) for doc in chosen]
        samples = [Sample(*each) for each in zip(chosen, requests, responses, scores, strict=True)]
    entry = task_entry(task, samples, len(docs), source.describe(type(task)))
    if reason := entry.counts.why_no_score(entry.n):
        raise EvalkitError(f"{config.file} has no score: {reason}; look at its answers")
    if entry.counts.extraction_failed == entry.n:
        reporter.say(_nothing_found(config, task, samples[0]))
    record = replace(record, status="complete", seconds=round(time.monotonic() - clock, 3), tasks={task.protocol.task: entry})
    write_run(folder, record, {task.protocol.task: samples})
    lm_eval_write.write(folder / "lm_eval", record, {task.protocol.task: samples})
    return record, folder


def _nothing_found(config: ScoreConfig, task: Task, sample: Sample) -> str:
    """What a figure of 0 means where the extraction found nothing in any answer."""
    name = task.protocol.task
    begins = getattr(sample.responses[0], "text", "")[:40]
    return (
        f"{config.file}: {name}@{task.protocol.name} finds nothing to score in any answer; the first one begins {begins!r}. "
        f"Are they answers to another prompt than {task.protocol.name}'s? `evalkit ls protocols` lists all"
    )


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


def _reader(spec: str) -> Task:
    """The task, under the protocol that is named or else the one for answers made elsewhere. Raises EvalkitError."""
    task = resolve(spec)
    if not isinstance(task, ReadsAnswers | ScoresTexts):
        readers = [name for name, cls in task_classes().items() if issubclass(cls, ReadsAnswers | ScoresTexts | JudgedTask)]
        raise unknown("task for files of answers", task.name, readers)
    return task if "@" in spec else resolve(f"{spec}@{task.given_protocol}")


def _asked(request: Request, n: int) -> list[Request]:
    """n requests for one prompt, one for each sample. The answers are texts, whatever a model would have been asked for."""
    if not isinstance(request, Generate):
        request = Generate(request.context, (), 0, messages=request.messages)
    return [replace(request, seed=i) for i in range(n)]
