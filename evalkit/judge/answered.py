"""What a run answered: its conversations, read from samples/TASK.jsonl."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.record.pairs import read_rows
from evalkit.record.read import read_run
from evalkit.tasks import Conversation, JudgedTask
from evalkit.tasks.registry import resolve, task_classes


@dataclass(frozen=True, slots=True)
class Answered:
    """The judged task of one run. `rows` are its samples as they stand in the file."""

    folder: Path
    record: dict[str, Any]
    task: str  # its name in run.json
    judged_task: JudgedTask
    rows: Sequence[dict[str, Any]]
    conversations: Mapping[str, Conversation]

    @property
    def model(self) -> str:
        """The model's name as a file name, as FastChat's files have it."""
        return file_name(Path(self.record["model"]["spec"]).name.removesuffix(".gguf") or "model")


def file_name(name: str) -> str:
    """A model's name without what a file name can't hold."""
    return "".join(c if c.isalnum() or c in "._-@+" else "-" for c in name).strip(".") or "model"


def read_answered(path: Path) -> Answered:
    """The task of a finished run that a judge scores. Raises EvalkitError where there is none, or its samples are damaged."""
    record = read_run(str(path))
    if record["status"] != "complete":
        raise EvalkitError(f"{path} is incomplete; run `{record['command']}` again to finish it, then judge it")
    folder = path if path.is_dir() else path.parent
    judged = [name for name, cls in task_classes().items() if issubclass(cls, JudgedTask)]
    tasks = [key for key in record["tasks"] if key.partition("@")[0] in judged]
    if not tasks:
        raise EvalkitError(f"{path} holds nothing to judge; run a task that a judge scores: {', '.join(judged)}")
    judged_task = resolve(f"{tasks[0].partition('@')[0]}@{record['tasks'][tasks[0]]['protocol']}")
    assert isinstance(judged_task, JudgedTask)
    rows = list(read_rows(folder / "samples" / f"{tasks[0]}.jsonl"))
    try:
        found = {row["doc_id"]: _conversation(row) for row in rows}
    except (KeyError, TypeError, IndexError) as error:
        raise EvalkitError(f"{path}: a sample of {tasks[0]} can't be read ({error!r}); run it again") from None
    return Answered(folder, record, tasks[0], judged_task, rows, found)


def _conversation(row: Mapping[str, Any]) -> Conversation:
    doc = row["doc"]
    answers = [response["text"].strip() for response in row["responses"]]
    if len(answers) != len(doc["turns"]):
        raise IndexError(f"question {row['doc_id']} has {len(doc['turns'])} turns and {len(answers)} answers")
    return Conversation(row["doc_id"], row["group"], doc["turns"], answers, doc.get("reference", ()))
