"""The plan: for every figure of the table what it takes here, or why it cannot be had; the cheapest first."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from evalkit.codec import encode
from evalkit.config import ModelSpec
from evalkit.data.sources import FolderSource, HubSource, open_source
from evalkit.errors import EvalkitError
from evalkit.files import shortened
from evalkit.hashing import sha256_json
from evalkit.report.published import Checkpoint, PublishedTable, Row, read_table
from evalkit.reproduce.cells import Cell, cells_of, rows_of
from evalkit.reproduce.config import ReproduceConfig
from evalkit.reproduce.estimate import Estimate, Estimates, Job
from evalkit.reproduce.measured import Measurements, device_key
from evalkit.reproduce.progress import Progress, progress
from evalkit.reproduce.weights import Weights, weights_for
from evalkit.runner.plan import Plan as TaskPlan
from evalkit.runner.plan import plan as plan_task
from evalkit.runner.programs import permit
from evalkit.runner.workload import Workload, workload
from evalkit.tasks import CodeTask, Generated, JudgedTask, Request, Response, Task
from evalkit.tasks.registry import resolve

SCHEMA: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A task under a protocol, to be run on a model: it decides the row's figures in `cells`.

    `hours` are still to come, `hours_in_all` those of the whole; `basis` says what they were taken from. `chosen`: within the budget.
    """

    model: str
    spec: str
    weights: str
    run: str
    task: str
    cells: tuple[str, ...]
    published: tuple[str, ...]
    work: Workload
    new_tokens: int
    answered: int
    hours: float
    hours_in_all: float
    basis: str
    chosen: bool = True

    @property
    def is_done(self) -> bool:
        return self.answered >= self.work.requests


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfReach:
    """A figure that cannot be had here, and why, in one line."""

    model: str
    cell: str
    task: str
    published: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan of a reproduction. `measurements` are in the order in which they run; `parameters`: models whose numbers are counted."""

    schema: Literal[1] = SCHEMA
    table: str
    title: str
    folder: str
    device: str
    data: str
    limit: int | None
    budget: float | None
    measurements: tuple[Measurement, ...]
    out_of_reach: tuple[OutOfReach, ...]
    parameters: tuple[str, ...]

    @property
    def chosen(self) -> list[Measurement]:
        return [each for each in self.measurements if each.chosen]

    @property
    def left_out(self) -> list[Measurement]:
        """What the budget has no room for."""
        return [each for each in self.measurements if not each.chosen]

    @property
    def hours(self) -> float:
        """Still to come, of what is chosen."""
        return sum(each.hours for each in self.chosen)


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and the jobs behind its measurements, in their order."""

    plan: Plan
    jobs: Sequence[Job]

    def by_run(self, chosen: bool = False) -> dict[str, list[Job]]:
        """The jobs, or those within the budget, by the run's name."""
        runs: dict[str, list[Job]] = {}
        for job, measurement in zip(self.jobs, self.plan.measurements, strict=True):
            if measurement.chosen or not chosen:
                runs.setdefault(measurement.run, []).append(job)
        return runs


def make_plan(config: ReproduceConfig) -> Planned:
    """Plan it: no weights are read, and no model is asked. Without `config.plan`, weights that are still to come are downloaded.

    Raises EvalkitError for an unknown table or model, and for a data folder that is not there.
    """
    table = read_table(config.table)
    open_source(config.data)
    return _Planner(config, table).plan(rows_of(table, config.models))


class _Planner:
    def __init__(self, config: ReproduceConfig, table: PublishedTable):
        self.config, self.table = config, table
        self.measurements = Measurements(config.folder)
        self.cells: Sequence[Cell] = ()
        self.out_of_reach: list[OutOfReach] = []
        self._weights: dict[str, Weights | str] = {}
        self._tasks: dict[str, str] = {}

    def plan(self, rows: Sequence[Row]) -> Planned:
        units: dict[tuple[str, str], list[Cell]] = {}
        weights: dict[str, Weights] = {}
        self.cells = cells_of(self.table, rows)
        for cell in self.cells:
            if held := self._obtainable(cell):
                weights[held.spec] = held
                units.setdefault((held.spec, cell.task), []).append(cell)
        found = [job for (spec, _), cells in units.items() if (job := self._job(weights[spec], cells))]
        config, jobs = self.config, in_order(found)
        plan = Plan(
            table=config.table,
            title=self.table.title,
            folder=str(config.folder),
            device=device_key(config.model(None)),
            data=config.data,
            limit=config.limit,
            budget=config.budget,
            measurements=tuple(within(config.budget, self._measured(jobs))),
            out_of_reach=(*self.out_of_reach, *self._throughput(rows)),
            parameters=tuple(row.model for row in rows if row.parameters and self.table.parameters),
        )
        return Planned(plan, jobs)

    def _measured(self, jobs: Sequence[Job]) -> list[Measurement]:
        """Each with its hours, of which the first one of a model has the loading of its weights."""
        if not jobs:
            return []
        alike = dict.fromkeys(job.weights.outline.like for job in jobs)
        estimates = Estimates({like: self.measurements.speed(self.config.model(None), like) for like in alike}, jobs)
        loaded: set[str] = set()
        found = []
        for job in jobs:
            first = job.left > 0 and job.weights.spec not in loaded
            loaded |= {job.weights.spec} if first else set()
            found.append(self._measurement(job, estimates.of(job, first)))
        return found

    def _measurement(self, job: Job, estimate: Estimate) -> Measurement:
        return Measurement(
            model=job.cells[0].row.model,
            spec=job.weights.spec,
            weights=self._described(job),
            run=run_name(job.weights.model),
            task=job.task,
            cells=tuple(cell.column.key for cell in job.cells),
            published=tuple(cell.figure.printed for cell in job.cells),
            work=job.work,
            new_tokens=round(sum(job.lengths(job.work.answers))),
            answered=min(job.progress.answered, job.work.requests),
            hours=estimate.left / 3600,
            hours_in_all=estimate.whole / 3600,
            basis=estimate.basis,
        )

    def _described(self, job: Job) -> str:
        """The weights, for the checkpoint of the job's own row: other rows may have them for another."""
        found = self._weights_of(job.cells[0])
        assert isinstance(found, Weights)  # or there were no job
        return found.description

    def _obtainable(self, cell: Cell) -> Weights | None:
        """The weights to measure it on; None, with a line, where it cannot be had."""
        found = cell.why_never or self._weights_of(cell)
        if isinstance(found, Weights) and not (reason := self._why_not_here(cell)):
            return found
        self._refuse(cell, found if isinstance(found, str) else reason)
        return None

    def _why_not_here(self, cell: Cell) -> str:
        return self._why_not_judged(cell) or self._why_not_run(cell)

    def _refuse(self, cell: Cell, reason: str) -> None:
        name, key, printed = cell.row.model, cell.column.key, cell.figure.printed
        self.out_of_reach.append(OutOfReach(model=name, cell=key, task=cell.task, published=printed, reason=reason))

    def _why_not_judged(self, cell: Cell) -> str:
        if not cell.is_judged or self.config.judge_model:
            return ""
        known = [name for name in cell.figure.judges if name != "unpublished"]
        return f"it needs a judge: --judge-model {known[0] if known else 'NAME'}, and --judge-url if it is not OpenAI's"

    def _why_not_run(self, cell: Cell) -> str:
        """Why programs may not run here; asked once a task."""
        if cell.task not in self._tasks:
            try:
                if isinstance(resolve(cell.task), CodeTask):
                    permit(self.config.allow_unsafe_code)
                self._tasks[cell.task] = ""
            except EvalkitError as error:
                self._tasks[cell.task] = str(error)
        return self._tasks[cell.task]

    def _weights_of(self, cell: Cell) -> Weights | str:
        checkpoint = cell.figure.checkpoint
        assert checkpoint is not None  # by why_never
        if checkpoint.spec not in self._weights:
            fetch = not self.config.plan and self._is_needed(checkpoint)
            self._weights[checkpoint.spec] = weights_for(checkpoint, self.config.model(None), fetch)
        return self._weights[checkpoint.spec]

    def _is_needed(self, checkpoint: Checkpoint) -> bool:
        """Is there a figure that would be measured on it? What nobody measures is not downloaded."""
        cells = (cell for cell in self.cells if cell.figure.checkpoint == checkpoint)
        return any(not (cell.why_never or self._why_not_here(cell)) for cell in cells)

    def _job(self, weights: Weights, cells: Sequence[Cell]) -> Job | None:
        """A task on these weights; None, with a line for each cell, where its data cannot be had."""
        task = resolve(cells[0].task)
        try:
            source = open_source(self.config.data)
            key = sha256_json([encode(task.protocol), _data_stamp(task, source), self.config.limit, weights.outline.stamp])
            work = self.measurements.workload(key)
            if work is None:
                requests = [*_asked(plan_task(task, source, self.config.limit))]
                if any(request.messages for request in requests) and not weights.outline.has_template:
                    raise EvalkitError(f"{weights.spec} has no chat template, which {task.protocol} writes its prompts with")
                work = workload(requests, weights.outline.count)
                self.measurements.keep_workload(key, work)
        except EvalkitError as error:
            for cell in cells:
                self._refuse(cell, str(error))
            return None
        run, name = run_name(weights.model), cells[0].task
        answered = progress(self.config.folder / run, name) if self.measurements.is_answering(run, name, key) else Progress()
        return Job(weights, name, key, tuple(cells), work, answered)

    def _throughput(self, rows: Sequence[Row]) -> Iterator[OutOfReach]:
        printed = self.table.throughput
        for row in rows:
            if printed and row.throughput:
                reason = f"made with {printed.engine} on {printed.device}: evalkit bench measures it on this device"
                figure = f"{row.throughput.requests_per_second:g}"
                yield OutOfReach(model=row.model, cell="requests/s", task="bench", published=figure, reason=reason)


def _asked(plan: TaskPlan) -> Iterator[Request]:
    """Every request; of a conversation also those that follow, as if the answers before were empty."""
    for doc, requests in zip(plan.docs, plan.requests, strict=True):
        yield from requests
        if isinstance(plan.task, JudgedTask):
            answers: list[Response] = [Generated("", "eos", 0) for _ in requests]
            while more := plan.task.follow_up(doc, answers):
                yield from more
                answers += [Generated("", "eos", 0) for _ in more]


def _data_stamp(task: Task, source: FolderSource | HubSource) -> object:
    """What changes where the rows may have changed: the files' sizes and times. The hub's are pinned."""
    if not isinstance(source, FolderSource):
        return source.kind
    paths = [*(table.path for table in task.tables(source)), *(file.path for file in task.text_files)]
    return [str(source.folder.resolve()), *((path, *_stat(source.folder / path)) for path in paths)]


def _stat(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """The models by their work, and the tasks of each by theirs. No measured time decides: an interrupted run goes on as it began."""
    models: dict[str, float] = {}
    for job in jobs:
        models[job.weights.spec] = models.get(job.weights.spec, 0.0) + job.size
    return sorted(jobs, key=lambda job: (models[job.weights.spec], job.weights.spec, job.size, job.task))


def within(budget: float | None, found: Sequence[Measurement]) -> list[Measurement]:
    """The cheapest that fit into the budget, in hours, are chosen; what is done costs nothing."""
    if budget is None:
        return [*found]
    room, chosen = budget, set[int]()
    for each in sorted(found, key=lambda each: each.hours):
        if each.hours > room:
            break
        room -= each.hours
        chosen.add(id(each))
    return [each if id(each) in chosen else replace(each, chosen=False) for each in found]


def run_name(model: ModelSpec) -> str:
    """The folder of a model's run: its name, and for a path a digest of it, since other folders may have the same name."""
    path = Path(model.name).expanduser()
    name = f"{path.name.removesuffix('.gguf')}-{sha256_json(str(path.resolve()))[:8]}" if path.exists() else model.name.replace("/", "--")
    return shortened(re.sub(r"[^\w.@+-]+", "-", name))
