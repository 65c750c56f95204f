"""Writing a run's folder: run.json (schema in results/README.md) and samples/TASK.jsonl. Every figure of them is computed here."""

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path

from evalkit.codec import decode, encode
from evalkit.files import kept, stage, sync, write_atomically
from evalkit.hashing import sha256_json
from evalkit.lm.base import LM
from evalkit.record.read import samples_file
from evalkit.record.sample import Sample, SampleRow
from evalkit.record.schema import Counts, Coverage, DataInfo, Environment, Metrics, ModelInfo, Run, TaskEntry, Tokens
from evalkit.record.shots import in_shots
from evalkit.stats.estimate import average
from evalkit.tasks import AggregatedTask, SuiteCell, SuiteTask, Task


def command_line() -> str:
    """A record's `command`."""
    return " ".join(["evalkit", *sys.argv[1:]])


def now() -> str:
    """A record's `started`."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def begin(name: str, model: ModelInfo, limit: int | None, seed: int, sandbox: str | None, command: str | None = None) -> Run:
    """A run before its first figure. `command`: what to do again, if not the command line."""
    return Run(
        name=name,
        status="incomplete",
        command=command or command_line(),
        started=now(),
        seconds=0.0,
        limit=limit,
        seed=seed,
        model=model,
        tasks={},
        environment=environment(sandbox),
    )


def model_info(spec: str, engine: str, lm: LM) -> ModelInfo:
    """What is recorded of the model behind an engine. Raises EvalkitError where the engine describes it in other words than ours."""
    described = {"spec": spec, "fingerprint": lm.fingerprint, "engine": engine, **lm.describe()}
    return decode(ModelInfo, described, f"what engine {engine} says of its model", "its description does not fit run.json")


def task_entry(
    task: Task,
    samples: Sequence[Sample],
    n_total: int,
    data: DataInfo,
    seconds: float = 0.0,
    tokens: Tokens | None = None,
    has_figures: bool = True,
) -> TaskEntry:
    """The entry of one task: its figures out of its samples, but for a shard's, which are nobody's score."""
    by_group: dict[str, list[Sample]] = {}
    for sample in samples:
        by_group.setdefault(sample.doc.group, []).append(sample)
    problems = Counter(problem for sample in samples for problem in sample.problems)
    problems["unscored"] = sum(not (sample.scored.metrics or sample.scored.parts) for sample in samples)
    counts = Counts(**{count.name: problems[count.name] for count in fields(Counts)})
    headline, cells = task.protocol.headline, tuple(map(_cell, task.cells())) if isinstance(task, SuiteTask) else ()
    metrics: Metrics
    groups: Mapping[str, Metrics]
    subjects: Mapping[str, Metrics]
    coverage: Coverage | None = None
    signatures: Mapping[str, str] = {}
    without: Mapping[str, str] = {}
    lower_is_better: tuple[str, ...] = ()
    no_shares: tuple[str, ...] = ()
    if not has_figures:
        metrics, groups, subjects = {}, {}, {}
    elif isinstance(task, SuiteTask):
        from evalkit.stats.suite import figures  # scipy and sacrebleu: seconds, for suites alone

        found = figures(cells, task.incomplete, samples)
        headline, metrics, groups, subjects = found.headline, found.metrics, found.groups, found.subjects
        coverage, signatures = found.coverage, found.signatures
    elif isinstance(task, AggregatedTask):
        own = task.aggregate([(sample.doc, sample.scored) for sample in samples])
        metrics, groups, subjects, without = own.metrics, own.groups, own.subjects, own.without
        lower_is_better = tuple(name for name in metrics if task.is_lower_better(name))
        no_shares = tuple(name for name in metrics if not task.is_mean(name) or not _within_one(samples, name))
    else:
        categories: dict[str, dict[str, list[Sample]]] = {}
        for group, members in by_group.items():
            if category := task.category(group):
                categories.setdefault(category, {})[group] = members
        metrics = _metrics(task, by_group)
        groups = {name: _metrics(task, members) for name, members in sorted(categories.items())}
        subjects = {group: _metrics(task, {group: members}) for group, members in sorted(by_group.items())} if categories else {}
    if counts.why_no_score(len(samples)):
        metrics, groups, subjects = {}, {}, {}
    return TaskEntry(
        file=task.file,
        protocol=task.protocol.name,
        protocol_sha256=sha256_json(asdict(task.protocol)),
        headline=headline,
        averaging=task.protocol.averaging,
        metrics=metrics,
        groups=groups,
        n=len(samples),
        n_total=n_total,
        counts=counts,
        in_shots=in_shots(samples),
        subjects=subjects,
        cells=cells,
        coverage=coverage,
        signatures=signatures,
        without=without,
        lower_is_better=lower_is_better,
        no_shares=no_shares,
        data=data,
        seconds=round(seconds, 3),
        tokens=tokens or Tokens(),
    )


def _within_one(samples: Sequence[Sample], metric: str) -> bool:
    """Does every document that has the metric have a number from 0 to 1?"""
    return all(0 <= sample.scored.metrics[metric] <= 1 for sample in samples if metric in sample.scored.metrics)


def _cell(cell: SuiteCell) -> SuiteCell:
    """What a cell is to a reader of its figure, without what its task knows besides (a subclass's fields)."""
    return SuiteCell(cell.name, cell.set, cell.language, cell.category, cell.metric, cell.tokenize)


def _metrics(task: Task, by_group: Mapping[str, Sequence[Sample]]) -> Metrics:
    samples = [sample for members in by_group.values() for sample in members]
    # of a judged file, some documents may lack a turn
    common = [metric for metric in samples[0].scored.metrics if all(metric in sample.scored.metrics for sample in samples)]
    return {
        metric: average({g: [s.scored.metrics[metric] for s in members] for g, members in by_group.items()}, task.protocol.averaging)
        for metric in common
    }


def environment(sandbox: str | None = None) -> Environment:
    """Where the run happens: versions, processor, GPU, the checkout's commit."""
    import torch

    return Environment(
        python=platform.python_version(),
        torch=str(torch.__version__),
        platform=platform.platform(),
        cpu=processor(),
        cores=os.cpu_count(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        git=_git(),
        sandbox=sandbox,
    )


def write_record(folder: Path, run: Run) -> None:
    """Replace run.json. Raises RunIncomplete where it can't be written."""
    write_atomically(folder / "run.json", [_run_text(run)])


def write_samples(folder: Path, task: str, rows: Iterable[SampleRow]) -> None:
    """Replace the samples of one task. Raises RunIncomplete where they can't be written."""
    write_atomically(samples_file(folder, task), _lines(rows))


def _run_text(run: Run) -> str:
    return json.dumps(encode(run), indent=2, ensure_ascii=False) + "\n"


def _lines(rows: Iterable[SampleRow]) -> Iterable[str]:
    return (json.dumps(encode(row), ensure_ascii=False) + "\n" for row in rows)


def write_run(folder: Path, run: Run, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Replace run.json and samples/ with these, or leave both as they are. Raises RunIncomplete where they can't be written.

    A run killed in between has no run.json rather than one that is not its samples'.
    """
    contents: dict[Path, Iterable[str]] = {
        samples_file(folder, name): _lines(sample.row() for sample in task_samples) for name, task_samples in samples.items()
    }
    run_json = folder / "run.json"
    contents[run_json] = [_run_text(run)]
    staged: dict[Path, Path] = {}
    try:
        for path, lines in contents.items():
            with kept(path):
                staged[path] = stage(path, lines)
    except BaseException:
        for partial in staged.values():
            partial.unlink(missing_ok=True)
        raise
    with kept(run_json):
        run_json.unlink(missing_ok=True)
        for path, partial in staged.items():
            if path != run_json:
                partial.replace(path)
        for stale in set((folder / "samples").glob("*.jsonl*")) - staged.keys():
            stale.unlink()
        sync(folder / "samples")
        staged[run_json].replace(run_json)
        sync(folder)


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git() -> str | None:
    """The commit of the checkout that evalkit runs from, "+dirty" where it has changes; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+dirty" if dirty else "")
