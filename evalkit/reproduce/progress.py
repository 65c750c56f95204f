"""What a run's journal already holds of a task: how many answers, how long they are, and what they took."""

from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.runner.journal import Journal
from evalkit.tasks import Generated


@dataclass(frozen=True, slots=True)
class Progress:
    """Answers, the seconds that they took (waiting for the first one included), and the lengths of the generated ones, in tokens."""

    answered: int = 0
    seconds: float = 0.0
    lengths: tuple[int, ...] = ()


def progress(folder: Path, task: str) -> Progress:
    """Of the task, "humaneval@chat", in a run's folder. A journal that cannot be read holds nothing for a plan."""
    if not (folder / "journal.sqlite").exists():
        return Progress()
    journal = None
    try:
        journal = Journal(folder / "journal.sqlite", read_only=True)
        responses = list(journal.responses(task))
        seconds, _ = journal.spent(task)
    except EvalkitError:
        return Progress()
    finally:
        if journal:
            journal.close()
    return Progress(len(responses), seconds, tuple(r.num_tokens for r in responses if isinstance(r, Generated)))
