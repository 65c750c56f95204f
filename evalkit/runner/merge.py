"""`evalkit merge`: the shards of a run, joined to the run that one process would have made.

The data are read again and every document is scored again from its recorded responses, so the figures come from where a run's come from.
No model is opened and no program runs: outcomes of programs are the shards' own. What the shards recorded must be what is found: each
response is also in the journal, and each sample has the bytes that its shard wrote. run.json is written last.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalkit.codec import encode
from evalkit.config import RUNS, RunConfig, require_folder_name
from evalkit.errors import EvalkitError
from evalkit.exchange import lm_eval_write
from evalkit.files import require_folder, shortened
from evalkit.progress import Reporter
from evalkit.record.read import read_rows, read_samples
from evalkit.record.sample import Sample, SampleRow
from evalkit.record.schema import Run
from evalkit.record.write import command_line, task_entry, write_run
from evalkit.runner.folder import made
from evalkit.runner.journal import Journal, request_key
from evalkit.runner.plan import Plan
from evalkit.runner.programs import recorded, score_ran
from evalkit.runner.run import interruptible, plans_of, require_scores
from evalkit.runner.shard import cut, plan_sha256
from evalkit.runner.shard_set import Part, earliest, environment_of, merged_shard, read_parts, whole_config
from evalkit.tasks import CodeTask, Doc, JudgedTask, Request, Response, Scored, Task, is_refused
from evalkit.tasks.registry import require_leave, resolve_all

FIX = "run the shard's command again"


@dataclass(frozen=True, slots=True)
class MergeConfig:
    """One `evalkit merge`. `data` and `include_path` replace the shards' own, which may be paths of another machine; `default_data` does
    where the shards' folder of data is not here.
    """

    runs: tuple[str, ...]
    data: str | None = None
    default_data: str | None = None
    include_path: str | None = None
    allow_task_code: bool = False
    out: str = RUNS
    name: str | None = None

    def __post_init__(self) -> None:
        require_folder_name(self.name)


def merge(config: MergeConfig, reporter: Reporter) -> tuple[Run, Path]:
    """Returns what run.json holds, and the run's folder. Raises EvalkitError where the shards do not make one whole run, and RunIncomplete
    where that has no score.
    """
    parts = read_parts(config.runs)
    asked = _asked(config, parts)
    folder = Path(config.out) / shortened(config.name or asked.run_name)
    _require_free(folder)
    plans = plans_of(asked, resolve_all(asked.tasks, asked.sampling, asked.lm_eval_options), reporter)
    _require_plan(asked, plans, parts)
    owners = cut(plans, len(parts))
    with made(folder), interruptible(), _journal(folder, parts) as journal:
        first = parts[0].run
        samples = {key: _samples(key, plan, owners[key], parts, journal, folder, reporter) for key, plan in plans.items()}
        entries = {
            key: task_entry(plan.task, samples[key], plan.n_total, first.tasks[key].data, *journal.spent(str(plan.task.protocol)))
            for key, plan in plans.items()
        }
        record = Run(
            name=folder.name,
            status="complete",
            command=command_line(),
            started=earliest([part.run.started for part in parts]),
            seconds=round(sum(part.run.seconds for part in parts), 3),
            limit=asked.limit,
            seed=asked.seed,
            model=first.model,
            tasks=entries,
            environment=environment_of([part.run.environment for part in parts]),
            merged=tuple(map(merged_shard, parts)),
        )
        require_scores(record, samples, "the shards are as they were")
        lm_eval_write.write(folder / "lm_eval", record, samples)
        journal.require_in_place()
        write_run(folder, record, samples)
    return record, folder


def _asked(config: MergeConfig, parts: Sequence[Part]) -> RunConfig:
    """The whole run's configuration. Leave to run a task's Python is given here, or not at all: a file cannot give it."""
    asked = whole_config(parts)
    if asked.allow_task_code and not config.allow_task_code:
        raise EvalkitError(
            "the shards were run with --allow-task-code; to run the tasks' Python here too, give it to evalkit merge as well"
        )
    for task in asked.tasks:
        require_leave(task, config.allow_task_code)
    is_here = asked.data_spec in ("hub", "sample") or Path(asked.data_spec).expanduser().is_dir()
    data = config.data or (asked.data if is_here else config.default_data or asked.data)
    return replace(asked, data=data, include_path=config.include_path or asked.include_path)


def _require_free(folder: Path) -> None:
    """Raises EvalkitError where the folder holds anything but answers that an interrupted merge or run has left."""
    require_folder(folder)
    if folder.exists() and any(folder.iterdir()) and ((folder / "run.json").exists() or not (folder / "journal.sqlite").exists()):
        held = "a run" if (folder / "run.json").exists() else "other files"
        raise EvalkitError(f"{folder} holds {held} already; pass another --name, or remove it")


def _require_plan(asked: RunConfig, plans: Mapping[str, Plan], parts: Sequence[Part]) -> None:
    """Raises EvalkitError where the data here, or the tasks, are not those that the shards answered."""
    first = parts[0]
    held = first.run.tasks
    if plan_sha256(asked, plans) == first.shard.plan_sha256 and held.keys() == plans.keys():
        return
    other = [key for key, plan in plans.items() if key not in held or held[key].data.sha256 != plan.data.sha256]
    what = f"the data of {other[0]} in {asked.data_spec}" if other else "the tasks' prompts or protocols"
    raise EvalkitError(f"{what} are not those that {first.path} was run on; pass --data with the shards' own data, or run the shards again")


@contextmanager
def _journal(folder: Path, parts: Sequence[Part]) -> Iterator[Journal]:
    """The whole run's journal: all rows of the shards' own."""
    journal = Journal(folder / "journal.sqlite")
    try:
        for part in parts:
            theirs = Journal(part.folder / "journal.sqlite", read_only=True)
            try:
                journal.take(theirs)
            finally:
                theirs.close()
        yield journal
    finally:
        journal.close()


def _samples(
    key: str, plan: Plan, owners: Sequence[int], parts: Sequence[Part], journal: Journal, folder: Path, reporter: Reporter
) -> list[Sample]:
    """One task's samples in the plan's order, scored again. Raises EvalkitError where a shard's file does not hold them."""
    by_shard = [_rows(part, key, plan) for part in parts]
    rows: list[SampleRow] = []
    for doc, first, owner in zip(plan.docs, plan.requests, owners, strict=True):
        part = parts[owner - 1]
        if (row := by_shard[owner - 1].pop(doc.id, None)) is None:
            raise EvalkitError(f"{part.path} has no sample of {key} document {doc.id}, which shard {part.shard} answers; {FIX}")
        if list(row.requests) != _all_requests(plan.task, doc, first, row.responses) or len(row.requests) != len(row.responses):
            raise EvalkitError(f"{part.path}: {key} document {doc.id} was asked something else than its shard asks; {FIX}")
        for request, response in zip(row.requests, row.responses, strict=True):
            if not is_refused(response) and journal.get(request_key(part.run.model.fingerprint, request)) != response:
                raise EvalkitError(f"{part.path}: the answer to {key} document {doc.id} is not in its journal; {FIX}")
        rows.append(row)
    for part, others in zip(parts, by_shard, strict=True):
        if others:
            raise EvalkitError(
                f"{part.path} has a sample of {key} document {next(iter(others))}, which is none of shard {part.shard}; {FIX}"
            )
    scores = _scores(plan, rows, owners, parts, folder, reporter)
    samples = [Sample(doc, row.requests, row.responses, scored) for doc, row, scored in zip(plan.docs, rows, scores, strict=True)]
    for sample, row, owner in zip(samples, rows, owners, strict=True):
        if encode(sample.row()) != encode(row):
            raise EvalkitError(f"{parts[owner - 1].path}: the sample of {key} document {row.doc_id} is not what its answers score; {FIX}")
    return samples


def _rows(part: Part, key: str, plan: Plan) -> dict[str, SampleRow]:
    """A shard's samples of a task by document. Raises EvalkitError for two of one, and for a shard of other data."""
    if (theirs := part.run.tasks[key].data.sha256) != plan.data.sha256:
        raise EvalkitError(
            f"{part.path}: its run.json states {theirs:.20} as the hash of {key}'s data, which is {plan.data.sha256:.20}; {FIX}"
        )
    rows: dict[str, SampleRow] = {}
    for row in read_samples(part.folder, key):
        if rows.setdefault(row.doc_id, row) is not row:
            raise EvalkitError(f"{part.path} has two samples of {key} document {row.doc_id}; {FIX}")
    return rows


def _all_requests(task: Task, doc: Doc, first: Sequence[Request], responses: Sequence[Response]) -> list[Request]:
    """What a document was asked: the plan's requests, and the further turns of a conversation with these responses."""
    asked = list(first)
    if isinstance(task, JudgedTask):
        while len(asked) <= len(responses) and (more := task.follow_up(doc, responses[: len(asked)])):
            asked += more
    return asked


def _scores(
    plan: Plan, rows: Sequence[SampleRow], owners: Sequence[int], parts: Sequence[Part], folder: Path, reporter: Reporter
) -> list[Scored]:
    if not isinstance(plan.task, CodeTask):
        return [plan.task.score(doc, row.responses) for doc, row in zip(plan.docs, rows, strict=True)]
    name = Path("completions") / f"{plan.task.protocol}.jsonl"
    outcomes: list[Mapping[str, list[Mapping[str, Any]]]] = []
    for part in parts:
        ran: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for line in read_rows(part.folder / name):
            ran[str(line.get("task_id"))].append(line)
        outcomes.append(ran)
    programs = [plan.task.programs(doc, row.responses) for doc, row in zip(plan.docs, rows, strict=True)]
    results = [
        ran
        for doc, some, owner in zip(plan.docs, programs, owners, strict=True)
        for ran in recorded(parts[owner - 1].folder / name, doc.id, some, outcomes[owner - 1].get(doc.id, ()))
    ]
    return score_ran(plan.task, plan.docs, programs, results, folder / name, reporter)
