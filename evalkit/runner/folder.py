"""A run's folder: what may be written into it, and its removal where a run ends before it has an answer."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.files import unwritable
from evalkit.record.read import read_run
from evalkit.record.schema import Run, task_of
from evalkit.runner.journal import Journal
from evalkit.runner.lock import WRITABLE
from evalkit.tasks import Protocol, Task


def require_same_tasks(folder: Path, tasks: Mapping[str, Task]) -> None:
    """Raises EvalkitError where the folder's run has figures of other tasks, which a run of `tasks` would remove.

    Another protocol of the same task is the same answers scored again, and may take its place.
    """
    if (run := run_of(folder)) is None:
        return
    asked = {task.protocol.task for task in tasks.values()}
    if lost := [f"{task_of(key)}@{entry.protocol}" for key, entry in run.tasks.items() if task_of(key) not in asked]:
        every = ",".join([*lost, *(str(task.protocol) for task in tasks.values())])
        raise EvalkitError(
            f"{folder} holds a run of {', '.join(lost)}, whose figures this one would remove; pass another --name, "
            f"--tasks {every} for all of them (answers that are there are not asked again), or --fresh to start over"
        )


def require_same_shard(folder: Path, shard: str | None) -> None:
    """Raises EvalkitError where the folder's run is of another shard, or the whole for a shard: its record would be removed."""
    if (run := run_of(folder)) is None or (held := str(run.shard) if run.shard else None) == shard:
        return
    it, fix = (f"shard {held} of a run", f"--shard {held} to go on with it") if held else ("a whole run", "leave --shard out")
    raise EvalkitError(f"{folder} holds {it}, whose record this run would replace; pass another --name, {fix}, or --fresh to start over")


def require_own(folder: Path, spec: str, protocol: Protocol) -> None:
    """Raises EvalkitError where the folder holds anything but an earlier scoring of the same file under the same protocol."""
    run = run_of(folder)
    earlier = run and {key: (run.model.engine, run.model.spec, entry.protocol) for key, entry in run.tasks.items()}
    if earlier == {protocol.task: ("file", spec, protocol.name)}:
        return
    if folder.exists() and not folder.is_dir():
        raise EvalkitError(f"{folder} is a file, not a run's folder; pass another --name")
    if folder.exists() and any(folder.iterdir()):
        held = f"a run of {', '.join(run.tasks) or 'no task'} by {run.model.spec}" if run else "other files"
        raise EvalkitError(f"{folder} holds {held}, which this would replace; pass another --name")


def run_of(folder: Path) -> Run | None:
    """The run of a folder; None where there is none, or none that can be read."""
    try:
        return read_run(folder) if (folder / "run.json").exists() else None
    except EvalkitError:
        return None


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """The folder, made if need be; a new one is removed again where the run ends before it has kept an answer.

    Raises EvalkitError where it can't be made.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error, WRITABLE) from None
    try:
        yield
    finally:
        if is_new and not (folder / "run.json").exists() and not _has_answers(folder / "journal.sqlite"):
            for file in folder.glob("journal.*"):
                file.unlink(missing_ok=True)
            with suppress(OSError):  # a traceback is kept
                folder.rmdir()


def _has_answers(journal: Path) -> bool:
    """Does the journal hold an answer, or what cannot be read and may be one?"""
    if not journal.exists() or not journal.stat().st_size:
        return False
    opened = None
    try:
        opened = Journal(journal, read_only=True)
        return len(opened) > 0
    except EvalkitError:
        return True
    finally:
        if opened:
            opened.close()
