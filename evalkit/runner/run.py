"""The runner: RunConfig -> tasks -> documents -> requests -> journal -> scores -> run.json.

All input is checked before the model is loaded, every answer is in the journal as it arrives, every figure comes from record/write.py.
"""

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from evalkit.config import RunConfig
from evalkit.data.sources import open_source
from evalkit.errors import Interrupted, RequestsSetAside, RunIncomplete
from evalkit.exchange import lm_eval_write
from evalkit.files import require_folder
from evalkit.lm import open_lm, require_model
from evalkit.lm.base import LM
from evalkit.progress import Reporter
from evalkit.record.sample import Sample
from evalkit.record.schema import Run, Shard
from evalkit.record.write import begin, model_info, task_entry, write_run
from evalkit.runner.asking import converse, engine_errors
from evalkit.runner.folder import made, require_same_shard, require_same_tasks
from evalkit.runner.journal import Journal, request_key
from evalkit.runner.plan import Plan, plan
from evalkit.runner.programs import permit, score_programs
from evalkit.runner.shard import shard_of
from evalkit.runner.time_left import TimeLeft
from evalkit.tasks import CodeTask, Doc, Request, Response, Task
from evalkit.tasks.registry import resolve_all

ENDING = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run whose input is checked: its plans by task, and the sandbox for model-written programs, in words (None where there are none).

    Of a shard, the plans are of its own documents.
    """

    plans: Mapping[str, Plan]
    sandbox: str | None
    shard: Shard | None = None


def prepare(config: RunConfig, reporter: Reporter, own: LM | None = None) -> Prepared:
    """Check all input and read the data, before a folder is made or a model opened. Raises EvalkitError."""
    require_folder(config.folder)
    if own is None:
        require_model(config.model_spec)
    tasks = resolve_all(config.tasks, config.sampling, config.lm_eval_options)
    plans = plans_of(config, tasks, reporter)
    # permission is asked before anything is generated
    runs_code = any(isinstance(task, CodeTask) for task in tasks.values())
    sandbox = permit(config.allow_unsafe_code) if runs_code else None
    if not config.fresh:
        require_same_tasks(config.folder, tasks)
        require_same_shard(config.folder, config.shard)
    if config.shard is None:
        return Prepared(plans, sandbox)
    shard, part = shard_of(config, plans)
    return Prepared(part, sandbox, shard)


def plans_of(config: RunConfig, tasks: Mapping[str, Task], reporter: Reporter) -> dict[str, Plan]:
    """What the whole run asks, by task. Raises DataError."""
    with reporter.bar("reading data", 1, counted=False):
        return {name: plan(task, open_source(config.data_spec), config.limit) for name, task in tasks.items()}


def run(config: RunConfig, reporter: Reporter, own: LM | None = None, command: str | None = None) -> Run:
    """Run, resume or re-score; returns what run.json holds. Raises EvalkitError (bad input) or RunIncomplete (stopped early).

    `own`: a program's model in place of the one that the configuration names; `command`: what to do again, if not the command line.
    """
    clock = time.monotonic()
    prepared = prepare(config, reporter, own)
    folder = config.folder
    with made(folder), interruptible():
        try:
            return _run(config, prepared, clock, reporter, own, command)
        except KeyboardInterrupt:  # a second one, while the first was handled
            raise Interrupted(
                f"interrupted again, before run.json was written; the answers are kept in {folder}, run the same command again to go on"
            ) from None


def open_model(
    config: RunConfig, journal: Journal, sandbox: str | None, reporter: Reporter, own: LM | None = None, command: str | None = None
) -> tuple[LM, Run]:
    """The model, and the run's record before its first figure."""
    if sandbox:
        reporter.say(f"sandbox: {sandbox}")
    with (
        reporter.bar("opening model and hashing its files" if config.engine == "native" else "opening model", 1, counted=False),
        engine_errors(journal),
    ):
        if own is None and (config.ray or config.num_workers > 1):
            from evalkit.workers import open_workers

            lm = open_workers(config, journal.path.parent / "workers", reporter)
        else:
            lm = own or open_lm(config.model_spec)
    for notice in lm.notices:
        reporter.say(notice)
    model = model_info(config.model_spec.name, config.engine, lm)
    return lm, begin(config.run_name, model, config.limit, config.seed, sandbox, command)


def _run(config: RunConfig, prepared: Prepared, clock: float, reporter: Reporter, own: LM | None, command: str | None) -> Run:
    """The run, once all input is checked and its folder is there."""
    folder, plans = config.folder, prepared.plans
    journal = Journal(folder / "journal.sqlite", fresh=config.fresh)
    if config.fresh:
        (folder / "run.json").unlink(missing_ok=True)
    record: Run | None = None  # until the model is open: without one there is nothing to write
    samples: dict[str, Sequence[Sample]] = {}
    try:
        lm, record = open_model(config, journal, prepared.sandbox, reporter, own, command)
        record = replace(record, shard=prepared.shard)
        with closing(lm):
            time_left = TimeLeft(lm, {str(each.task.protocol): _missing(each, lm, journal) for each in [*plans.values()][1:]})
            set_aside: dict[str, str] = {}
            for name, each in plans.items():
                try:
                    requests, responses = converse(each, lm, journal, reporter, time_left)
                except RequestsSetAside as error:  # the other tasks go on
                    set_aside[name] = str(error)
                    continue
                samples[name] = score_docs(each.task, each.docs, requests, responses, folder, config.allow_unsafe_code, reporter)
                seconds, tokens = journal.spent(str(each.task.protocol))
                whole = prepared.shard is None
                entry = task_entry(each.task, samples[name], each.n_total, each.data, seconds, tokens, has_figures=whole)
                # described again: an engine may know more of its server by now
                model = model_info(config.model_spec.name, config.engine, lm)
                record = replace(record, model=model, tasks={**record.tasks, name: entry})
        for name, reason in set_aside.items():
            raise RunIncomplete(f"{name}: {reason}; {len(journal)} answers are kept in {folder}, run the same command again to retry")
        if prepared.shard is not None:
            record = replace(record, shard=replace(prepared.shard, finished=True))
            return record
        require_scores(record, samples, f"the answers are kept in {folder}")
        record = replace(record, status="complete")
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {len(journal)} answers are kept in {folder}, run the same command again to go on") from None
    finally:
        try:
            if record is not None:
                journal.require_in_place()
                record = replace(record, seconds=round(time.monotonic() - clock, 3))
                write_run(folder, record, samples)
        finally:
            journal.close()
    lm_eval_write.write(folder / "lm_eval", record, samples)
    return record


def require_scores(record: Run, samples: Mapping[str, Sequence[Sample]], kept: str) -> None:
    """Raises RunIncomplete where too many documents of a task have no answer, with where the others are kept."""
    for name, entry in record.tasks.items():
        if reason := entry.counts.why_no_score(entry.n):
            raise RunIncomplete(f"{name} has no score: {reason}{_first(samples[name])}; {kept}")


def _first(samples: Sequence[Sample]) -> str:
    """Where to look: the first document that has no answer."""
    return next((f" (first: {sample.doc.id})" for sample in samples if sample.problems & {"unanswered", "empty"}), "")


def _missing(plan: Plan, lm: LM, journal: Journal) -> list[Request]:
    """The distinct first requests that have no answer yet."""
    distinct = dict.fromkeys(request for requests in plan.requests for request in requests)
    return [request for request in distinct if journal.get(request_key(lm.fingerprint, request)) is None]


def score_docs(
    task: Task,
    docs: Sequence[Doc],
    requests: Sequence[Sequence[Request]],
    responses: Sequence[Sequence[Response]],
    folder: Path,
    allow_unsafe_code: bool,
    reporter: Reporter,
) -> list[Sample]:
    """Score every document. Programs run in the sandbox and are kept in completions/."""
    if isinstance(task, CodeTask):
        completions = folder / "completions" / f"{task.protocol}.jsonl"
        scores = score_programs(task, docs, responses, completions, allow_unsafe_code, reporter)
    else:
        scores = [task.score(doc, given) for doc, given in zip(docs, responses, strict=True)]
    return [Sample(*each) for each in zip(docs, requests, responses, scores, strict=True)]


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM (a CI job's time-out) and SIGHUP (a closed terminal) end a run as Ctrl-C does, with a message and all answers kept.

    A signal that is ignored (SIGHUP under nohup) stays ignored.
    """

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        previous = {each: signal.signal(each, stop) for each in ENDING if signal.getsignal(each) is not signal.SIG_IGN}
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
