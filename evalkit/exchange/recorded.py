"""A run as evalkit records it, whatever file it was read from: what writers take and readers of other programs' files return."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from evalkit.codec import decode, encode
from evalkit.errors import EvalkitError
from evalkit.exchange.stated import bounds_of, require_within
from evalkit.hashing import sha256_json
from evalkit.record.figure import agrees
from evalkit.record.pairs import score_of
from evalkit.record.read import read_complete, read_samples, run_folder
from evalkit.record.sample import SampleRow
from evalkit.record.schema import Counts, DataInfo, Environment, Metrics, ModelInfo, Run, TaskEntry, Tokens
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods

OURS = "evalkit"  # the key of what a format has no place of its own for, and the source of files that hold evalkit's hashes
UNKNOWN = "unknown"
UNSTATED = Environment(python=UNKNOWN, torch=UNKNOWN, platform=UNKNOWN, cpu=UNKNOWN, cores=None, gpu=None, git=None)
CHANGED = "the file was changed after evalkit wrote it; export the run again"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One run. `source`: whose hashes of documents it has; `samples` by task; `no_samples`: why there are none, "" where they are there."""

    path: Path
    source: str
    run: Run
    samples: Mapping[str, Sequence[SampleRow]] = field(default_factory=dict)
    no_samples: str = ""

    @property
    def folder(self) -> Path:
        return run_folder(self.path)

    def require_samples(self) -> None:
        """Raises EvalkitError where the file holds figures alone."""
        if self.no_samples:
            raise EvalkitError(f"{self.path} holds figures without samples ({self.no_samples}); `evalkit report` shows them")


@dataclass(frozen=True, slots=True)
class Written:
    """The files of an export, and what of the run is not in them, in one line; "" where the format holds the run's tasks and samples."""

    files: Sequence[Path]
    left_out: str = ""


def read_ours(path: str) -> Recorded:
    """A finished run of ours, with its samples in memory. Raises EvalkitError."""
    run = read_complete(path)
    return Recorded(Path(path), OURS, run, {task: list(read_samples(run_folder(path), task)) for task in run.tasks})


# --- what evalkit wrote into another format ---------------------------------------------------------------------------


def kept_task(run: Run, task: str) -> dict[str, Any]:
    """One task of a run as JSON, for a format's own place for what it has no key for."""
    return encode(replace(run, tasks={task: run.tasks[task]}))


def from_kept(raw: Any, where: str, figures: Mapping[str, float]) -> tuple[str, Run]:
    """(task, run of that task alone) out of `kept_task`. `figures`: the metrics as the format's own keys state them, which must agree."""
    run = decode(Run, raw, f"{where}: {OURS}", CHANGED)
    if len(run.tasks) != 1:
        raise EvalkitError(f"{where}: {OURS} holds {len(run.tasks)} tasks, expected one; {CHANGED}")
    ((task, entry),) = run.tasks.items()
    for metric in entry.metrics.keys() | figures.keys():
        kept = entry.metrics.get(metric)
        if kept is None or not agrees(figures.get(metric), kept.value):
            raise EvalkitError(
                f"{where}: {metric} of {task} is {figures.get(metric)!r:.40}, and evalkit wrote {kept and kept.value}; {CHANGED}"
            )
    return task, run


def kept_row(row: SampleRow) -> dict[str, Any]:
    """A sample as JSON, for a format's own place for what it has no key for."""
    return encode(row)


def row_from_kept(raw: Any, where: str, metrics: Mapping[str, float], target: str) -> SampleRow:
    """A sample out of `kept_row`, which must agree with what the format's own keys state: numbers by metric, and the target."""
    row = decode(SampleRow, raw, f"{where}: {OURS}", CHANGED)
    numbers = numbers_of(row)
    if numbers.keys() != metrics.keys() or any(not agrees(metrics[name], value) for name, value in numbers.items()) or row.target != target:
        raise EvalkitError(f"{where}: score {dict(metrics)!r:.60} or target {target!r:.40} is not what evalkit wrote; {CHANGED}")
    return row


def numbers_of(row: SampleRow) -> dict[str, float]:
    """The metrics that are numbers of this document alone."""
    return {name: value for name, value in row.metrics.items() if isinstance(value, float | int)}


def said(row: SampleRow) -> list[str]:
    """A text for each response: of log-likelihoods, the likeliest continuation."""
    found = []
    for request, response in zip(row.requests, row.responses, strict=False):
        if isinstance(response, Loglikelihoods) and isinstance(request, Loglikelihood):
            found.append(request.continuations[max(range(len(response.logprobs)), key=response.logprobs.__getitem__)])
        elif isinstance(response, Generated):
            found.append(response.text)
    return found


def merged(path: Path, source: str, parts: Iterable[tuple[str, Run, Sequence[SampleRow]]], no_samples: str = "") -> Recorded:
    """The tasks of several files as one run. Raises EvalkitError where they are of different models, or a task is there twice."""
    first: Run | None = None
    tasks: dict[str, TaskEntry] = {}
    samples: dict[str, Sequence[SampleRow]] = {}
    for task, found, rows in parts:
        run = found if source == OURS else checked(Run, found, f"{path}")
        if first is None:
            first = run
        if run.model != first.model:
            raise EvalkitError(f"{path} holds results of {first.model.spec} and of {run.model.spec}; give the files of one")
        if task in tasks:
            raise EvalkitError(f"{path} holds {task} twice; give one of its files")
        tasks[task] = run.tasks[task]
        samples[task] = (
            rows if source == OURS else [checked(SampleRow, row, f"{path}: {task}: document {row.doc_id!r:.40}") for row in rows]
        )
    if first is None:
        raise EvalkitError(f"{path} holds no results; export or run again")
    return Recorded(path, source, replace(first, tasks=tasks), {} if no_samples else samples, no_samples)


T = TypeVar("T", Run, SampleRow)


def checked(kind: type[T], found: T, where: str) -> T:
    """What was made of another program's values, which may be of any type. Raises EvalkitError for one that its field can't have."""
    return decode(kind, encode(found), where, "its values must be of the types that its format says")


# --- what another program wrote ---------------------------------------------------------------------------------------


def foreign_run(name: str, spec: str, engine: str, started: str | None, tasks: Mapping[str, TaskEntry], git: str | None = None) -> Run:
    """A run of another program. What its files do not say is "unknown"."""
    return Run(
        name=name,
        status="complete",
        command=engine,
        started=started or UNKNOWN,
        seconds=0.0,
        limit=None,
        seed=0,
        model=ModelInfo(spec=spec, fingerprint=f"sha256:{sha256_json([spec, engine])}", engine=engine),
        tasks=tasks,
        environment=replace(UNSTATED, git=git),
    )


def foreign_entry(
    protocol: str,
    settings: Any,
    metrics: Metrics,
    n: int,
    data: DataInfo,
    n_total: int | None = None,
    extraction_failed: int = 0,
    lower_is_better: tuple[str, ...] = (),
    no_shares: tuple[str, ...] = (),
) -> TaskEntry:
    """A task of another program's run; the first metric is the headline. `settings` (JSON): what must agree for figures to compare."""
    return TaskEntry(
        protocol=protocol,
        protocol_sha256=sha256_json(settings),
        headline=next(iter(metrics)),
        averaging="micro",
        metrics=metrics,
        groups={},
        n=n,
        n_total=n if n_total is None else n_total,
        counts=Counts(extraction_failed=extraction_failed, truncated=0, boundary_merged=0, stopped_by_length=0, unscored=0),
        lower_is_better=lower_is_better,
        no_shares=no_shares,
        data=data,
        seconds=0.0,
        tokens=Tokens(),
    )


def foreign_row(
    doc_id: str,
    doc: Mapping[str, Any],
    asked: str | Sequence[tuple[str, str]],
    target: str,
    metrics: Mapping[str, Any],
    texts: Sequence[str],
    extracted: str,
    where: str,
    group: str = "",
    bounds: tuple[float, float] | None = None,
) -> SampleRow:
    """A sample of another program. `asked`: a text or a conversation, "" where the file does not say; `bounds`: its scores', where it says.

    Its hashes are over what its file says of the document, and of what was asked. Raises EvalkitError for a score that is no number, or
    that its metric can't have.
    """
    try:
        scores = {name: score_of(value, name) for name, value in metrics.items()}
    except EvalkitError as error:
        raise EvalkitError(f"{where}: {error}") from None
    for name, score in scores.items():
        require_within(score, bounds or bounds_of(name), f"{where}: {name}")
    context, messages = (asked, ()) if isinstance(asked, str) else ("", tuple(asked))
    request = Generate(context, (), 0, messages=messages)  # with which settings, such files do not say of a document
    return SampleRow(
        doc_id=doc_id,
        group=group,
        doc_hash=sha256_json([doc, target]),
        prompt_hash=sha256_json(asked),
        doc=doc,
        target=target,
        extracted=extracted,
        extraction_failed=False,
        metrics=scores,
        requests=(request,) if asked else (),
        responses=tuple(Generated(text, UNKNOWN, 0) for text in texts),
    )
