"""Runs what a plan has chosen, model by model. Each run is the runner's own: it resumes, and may be stopped at any point."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from evalkit.data.sources import open_source
from evalkit.errors import EvalkitError, Interrupted, keeping_traceback
from evalkit.files import unwritable
from evalkit.judge import result
from evalkit.judge.runner import judge
from evalkit.lm import open_lm
from evalkit.progress import Reporter
from evalkit.record.schema import task_of
from evalkit.reproduce.config import ReproduceConfig
from evalkit.reproduce.measured import Measurements
from evalkit.reproduce.plan import Planned
from evalkit.runner.asking import converse
from evalkit.runner.folder import run_of
from evalkit.runner.journal import Journal
from evalkit.runner.lock import WRITABLE, lock
from evalkit.runner.plan import Plan, plan
from evalkit.runner.run import interruptible, run
from evalkit.runner.workload import ENOUGH
from evalkit.tasks import JudgedTask, SuiteTask
from evalkit.tasks.registry import resolve, task_classes

LOCK = "reproduce.lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for this process alone. Raises EvalkitError where another one works there or it can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error, WRITABLE) from None
    held = lock(folder / LOCK, "reproducing into", "wait for it, or pass another --out")
    try:
        with interruptible():
            yield
    finally:
        held.close()


def warm_up(config: ReproduceConfig, planned: Planned, reporter: Reporter) -> None:
    """Answer a few documents of every task that has too few answers to take its pace from. They are the run's own, and are kept."""
    for name, jobs in planned.by_run().items():
        due = [job for job in jobs if not job.is_measured]
        if not due:
            continue
        weights = due[0].weights
        reporter.say(f"{weights.spec}: a few documents of {', '.join(job.task for job in due)}, to learn how long the others take")
        Measurements(config.folder).keep_answering(name, {job.task: job.key for job in due})
        (config.folder / name).mkdir(exist_ok=True)
        journal = Journal(config.folder / name / "journal.sqlite")
        try:
            lm = open_lm(weights.model)
            for job in due:
                converse(_few(plan(resolve(job.task), open_source(config.data), config.limit)), lm, journal, reporter)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; {len(journal)} answers are kept, run the same command again to go on") from None
        finally:
            journal.close()


def _few(whole: Plan) -> Plan:
    """A few of the documents, evenly spread."""
    count = 4 * ENOUGH if isinstance(whole.task, SuiteTask) else ENOUGH
    chosen = sorted({k * len(whole.docs) // count for k in range(count)})
    return replace(whole, docs=[whole.docs[i] for i in chosen], requests=[whole.requests[i] for i in chosen])


def execute(config: ReproduceConfig, planned: Planned, reporter: Reporter) -> list[tuple[str, EvalkitError]]:
    """Run every chosen model's tasks, the cheapest first; returns the SPECs that failed, and why: the others have run all the same."""
    failures: list[tuple[str, EvalkitError]] = []
    for name, jobs in planned.by_run(chosen=True).items():
        weights, folder = jobs[0].weights, config.folder / name
        reporter.say(f"{weights.spec}: {', '.join(job.task for job in jobs)}")
        Measurements(config.folder).keep_answering(name, {job.task: job.key for job in jobs})
        try:
            with keeping_traceback(folder):
                tasks = _with_held(folder, [job.task for job in jobs], config.judge_model)
                run(config.run(weights.model, tasks, name), reporter)
                if config.judge_model and any(issubclass(task_classes()[task_of(each)], JudgedTask) for each in tasks):
                    judging = config.judge(folder)
                    result.write_single(judging, judge(judging, reporter))
        except Interrupted:
            raise
        except EvalkitError as error:
            failures.append((weights.spec, error))
            reporter.say(f"{weights.spec}: {error}")
    return failures


def _with_held(folder: Path, tasks: Sequence[str], judge_model: str | None) -> list[str]:
    """The tasks, and those that the folder's run has figures of: of other rows, of a judge, of an earlier table. They are kept.

    Raises EvalkitError where ratings would be lost for want of their judge.
    """
    held = run_of(folder)
    entries = {f"{task_of(key)}@{entry.protocol}": entry for key, entry in (held.tasks if held else {}).items()}
    for name, entry in entries.items():
        if entry.judge and not judge_model:
            judge_name = entry.judge.model
            raise EvalkitError(f"{folder} holds {name} as judged by {judge_name}, which this would remove: give --judge-model {judge_name}")
    return [*dict.fromkeys((*tasks, *entries))]
