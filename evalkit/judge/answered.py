"""The answers of a run to be judged: its conversations, read from samples/TASK.jsonl."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from evalkit.errors import EvalkitError
from evalkit.record.read import read_complete, read_samples, run_folder, samples_file
from evalkit.record.sample import SampleRow
from evalkit.record.schema import Run, TaskEntry, task_of
from evalkit.tasks import Conversation, Generated, JudgedTask
from evalkit.tasks.registry import resolve, spec_of, task_classes


@dataclass(frozen=True, slots=True)
class Answered:
    """The judged task of one run. `rows` are its samples as the file holds them."""

    folder: Path
    run: Run
    task: str  # its name in run.json
    judged_task: JudgedTask
    rows: Sequence[SampleRow]
    conversations: Mapping[str, Conversation]

    @property
    def entry(self) -> TaskEntry:
        return self.run.tasks[self.task]

    @property
    def model(self) -> str:
        """The model's name, fit for file names, as other programs' files name it."""
        return file_name(Path(self.run.model.spec).name.removesuffix(".gguf") or "model")


def file_name(name: str) -> str:
    """A model's name without the characters that a file name can't hold."""
    return "".join(c if c.isalnum() or c in "._-@+" else "-" for c in name).strip(".") or "model"


def read_answered(path: Path, allow_task_code: bool = False) -> Answered:
    """The judged task of a finished run. Raises EvalkitError where the run holds none, or its samples are damaged, or the task is Python of
    a file that runs only by `allow_task_code`.
    """
    run, folder = read_complete(path), run_folder(path)
    judged = [name for name, cls in task_classes().items() if issubclass(cls, JudgedTask)]
    tasks = [key for key, entry in run.tasks.items() if task_of(key) in judged or (entry.file and (entry.judge or entry.counts.unscored))]
    if not tasks:
        raise EvalkitError(f"{path} holds nothing to judge; run a judged task: {', '.join(judged)}")
    if reason := run.tasks[tasks[0]].counts.why_no_score(run.tasks[tasks[0]].n):
        raise EvalkitError(f"{path} is not judged: {reason}; look at {samples_file(folder, tasks[0])}, mend that and run it again")
    entry = run.tasks[tasks[0]]
    spec = spec_of(task_of(tasks[0]), entry.protocol, entry.file, allow_task_code)
    judged_task = resolve(f"{spec.partition('@')[0]}@{entry.protocol}")
    if not isinstance(judged_task, JudgedTask):
        raise EvalkitError(f"{path} holds nothing to judge: {tasks[0]} is no judged task")
    rows = list(read_samples(folder, tasks[0]))
    found = {row.doc_id: _conversation(row, samples_file(folder, tasks[0])) for row in rows}
    return Answered(folder, run, tasks[0], judged_task, rows, found)


def _conversation(row: SampleRow, file: Path) -> Conversation:
    """Raises EvalkitError where the document has no turns, or not as many answers as turns."""
    turns, reference = row.doc.get("turns"), row.doc.get("reference", [])
    answers = [response.text.strip() for response in row.responses if isinstance(response, Generated)]
    if not _texts(turns) or not _texts(reference) or len(turns) != len(answers):
        raise EvalkitError(f"{file}: question {row.doc_id} has {len(answers)} answers to the turns {turns!r:.40}; run it again")
    return Conversation(row.doc_id, row.group, turns, answers, reference)


def _texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
