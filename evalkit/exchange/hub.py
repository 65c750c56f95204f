"""The hub's evaluation results: `.eval_results/*.yaml` of a model's repository, a figure each, shown on benchmarks' leaderboards.

Schema: https://github.com/huggingface/hub-docs/blob/main/eval_results.yaml; values of shares are percent, as the leaderboards have them.
What the schema has no key for (protocol, metric, n, error, interval, model, data) stands in `notes` as KEY=VALUE, and is read from there.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from evalkit import __version__
from evalkit.codec import OPTIONAL, decode, key
from evalkit.errors import EvalkitError
from evalkit.exchange.recorded import OURS, Recorded, Written, foreign_entry, foreign_run, merged
from evalkit.exchange.stated import bounds_of, stated
from evalkit.files import read_text, write_output
from evalkit.hashing import sha256_json
from evalkit.record.figure import agrees
from evalkit.record.schema import DataInfo, Run, TaskEntry, task_of
from evalkit.stats.estimate import Estimate
from evalkit.tasks import AggregatedTask, JudgedTask, SuiteTask
from evalkit.tasks.registry import resolve, task_classes

# (dataset, task) of the hub's benchmarks that our tasks are; a dataset takes results once it is registered as a benchmark
BENCHMARKS = {"gsm8k": ("openai/gsm8k", "gsm8k"), "lm_eval:mmlu_pro": ("TIGER-Lab/MMLU-Pro", "mmlu_pro")}
LOSES = "the hub's format holds figures alone"
FIX = "see docs/exchange.md"
DIGITS = 10  # of a value in percent; the exact share is in the notes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dataset:
    id: str
    task_id: str
    revision: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    url: str
    name: str | None = None
    user: str | None = None
    org: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    dataset: _Dataset
    value: float
    verify_token: str | None = field(default=None, metadata=key("verifyToken"))
    date: str | None = None
    source: _Source | None = None
    notes: str = ""


def write(recorded: Recorded, out: Path, options: Mapping[str, str]) -> Written:
    """A file for each task that a benchmark of the hub is. `options`: more of these, task -> ORG/NAME:TASK_ID.

    Raises EvalkitError where the run has none, or where its figures are of other rows than the benchmark's.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    known = {**{task: f"{dataset}:{task_id}" for task, (dataset, task_id) in BENCHMARKS.items()}, **options}
    if strange := [task for task in options if not any(task in (name, task_of(name)) for name in recorded.run.tasks)]:
        raise EvalkitError(f"--dataset {strange[0]}: the run has no such task; it has {', '.join(recorded.run.tasks)}")
    written: list[Path] = []
    for task, entry in recorded.run.tasks.items():
        if (named := known.get(task, known.get(task_of(task)))) is None:
            continue
        dataset, colon, task_id = named.rpartition(":")
        if not colon or "/" not in dataset or not task_id:
            raise EvalkitError(f"--dataset {task}={named}: expected {task}=ORG/NAME:TASK_ID, as the dataset's eval.yaml names the task")
        _require_benchmark(task_of(task), dataset, task_id, f"--dataset {task}={named}")
        if entry.data.source == "sample":
            raise EvalkitError(
                f"{task} was run on the bundled sample, whose figures are not {dataset}'s; run it with --data hub or a folder"
            )
        if (figure := entry.figure) is None:
            raise EvalkitError(f"{task} has no figure yet; judge or finish the run first")
        value = round(100 * figure.value, DIGITS) if entry.is_share(entry.headline) else figure.value
        result = EvalResultEntry(dataset, task_id, value, notes=_notes(recorded.run, task, entry, figure), date=recorded.run.started)
        if entry.data.source == "hub":
            result.dataset_revision = entry.data.revision
        path = out / _path(task)
        write_output(path, yaml.safe_dump(eval_result_entries_to_yaml([result]), sort_keys=False, allow_unicode=True, width=1_000))
        written.append(path)
    if not written:
        raise EvalkitError(
            f"the hub has no benchmark for {', '.join(recorded.run.tasks)} (it has {', '.join(BENCHMARKS)}); "
            "name a registered one: --dataset TASK=ORG/NAME:TASK_ID"
        )
    lacking = [task for task, path in zip(recorded.run.tasks, map(_path, recorded.run.tasks), strict=True) if out / path not in written]
    return Written(written, f"{', '.join(lacking)}: no benchmark of the hub is named for it (--dataset)" if lacking else "")


def _require_benchmark(task: str, dataset: str, task_id: str, where: str) -> None:
    """Raises EvalkitError for a benchmark of the hub that is another task's, or a task that is another benchmark's."""
    of = {benchmark: name for name, benchmark in BENCHMARKS.items()}.get((dataset, task_id), task)
    right = BENCHMARKS.get(task, (dataset, task_id))
    if of != task or right != (dataset, task_id):
        fits = f"{':'.join(right)} is {task}'s" if of == task else f"that is {of}'s"
        raise EvalkitError(f"{where}: {dataset}:{task_id} is not the benchmark of {task}; {fits}")


def _path(task: str) -> Path:
    return Path(".eval_results", f"{task.replace(':', '_').replace('/', '_')}.yaml")


def _notes(run: Run, task: str, entry: TaskEntry, figure: Estimate) -> str:
    low, high = figure.ci95
    pairs = {
        OURS: __version__,
        "task": f"{task_of(task)}@{entry.protocol}",
        "settings": entry.protocol_sha256,
        "metric": entry.headline,
        "score": repr(figure.value),
        "stderr": repr(figure.stderr),
        "ci95": f"{low!r} to {high!r}",
        "n": f"{figure.n} of {entry.n_total}" if figure.n == entry.n else f"{figure.n} in {entry.n} of {entry.n_total}",
        "model": run.model.spec,
        "fingerprint": run.model.fingerprint,
        "engine": run.model.engine,
        "data": f"{entry.data.source} {entry.data.sha256}",
    }
    return "; ".join(f"{name}={value.replace(';', ',')}" for name, value in pairs.items())


def read(place: Path) -> Recorded:
    """A file, or a folder of them: the figures of one model. Raises EvalkitError for what does not fit or has no interval."""
    files = [place] if place.is_file() else sorted(place.glob("*.yaml")) or sorted(place.glob(".eval_results/*.yaml"))
    parts = [(task, run, ()) for file in files for task, run in _results(file)]
    return merged(place, "hub", parts, LOSES)


def _results(file: Path) -> Iterator[tuple[str, Run]]:
    import yaml

    try:
        text = read_text(file)
        if (doubled := _doubled(yaml.compose(text, yaml.SafeLoader))) is not None:
            raise EvalkitError(f"{file}: the key {doubled!r:.40} is there twice in one object; {FIX}")
        raw = yaml.safe_load(text)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise EvalkitError(f"{file} is no YAML ({' '.join(str(error).split()):.100}); {FIX}") from None
    results = decode(tuple[_Result, ...], _plain(raw), str(file), f"the hub's evaluation results have none but its keys; {FIX}")
    for number, result in enumerate(results):
        where = f"{file}: result {number + 1} ({result.dataset.id})"
        pairs = [pair.partition("=")[::2] for pair in result.notes.split("; ")] if f"{OURS}=" in result.notes else []
        notes = dict(pairs)
        if len(notes) < len(pairs):
            doubled = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise EvalkitError(f"{where}: {doubled:.40} is there twice in its notes; export the run again")
        if not notes:
            raise EvalkitError(f"{where}: value {result.value} has neither n nor a standard error in its notes, so no interval; {FIX}")
        try:
            yield _ours(file, result, notes, where)
        except (KeyError, ValueError) as error:
            raise EvalkitError(f"{where}: notes lack or garble {error!s:.60}; export the run again") from None


def _ours(file: Path, result: _Result, notes: Mapping[str, str], where: str) -> tuple[str, Run]:
    """Raises KeyError and ValueError for notes that are not as they were written."""
    score, stderr = float(notes["score"]), float(notes["stderr"])
    low, high = map(float, notes["ci95"].split(" to "))
    first, total = notes["n"].split(" of ")
    rated, _, n = first.partition(" in ")
    is_share, known = agrees(round(100 * score, DIGITS), result.value), bounds_of(notes["metric"])
    if not is_share and (known == (0, 1) or not agrees(score, result.value)):
        percent = " in percent" if known == (0, 1) else ""
        raise EvalkitError(f"{where}: value {result.value} is not the score {score} of its notes{percent}; export the run again")
    task, _, protocol = notes["task"].partition("@")
    source, _, sha256 = notes["data"].partition(" ")
    figure = stated(score, (), stderr, int(rated), f"{where}: score", (low, high), (0.0, 1.0) if is_share else known)
    if not int(n or rated) <= int(total):
        raise EvalkitError(f"{where}: n is {notes['n']}, more than there are; export the run again")
    _require_benchmark(task, result.dataset.id, result.dataset.task_id, where)
    _require_known(task, protocol, notes["metric"], notes["settings"], where)
    entry = foreign_entry(
        protocol,
        None,
        {notes["metric"]: figure},
        int(n or rated),
        DataInfo(source=source, revision=result.dataset.revision, sha256=sha256),
        int(total),
        no_shares=() if is_share else (notes["metric"],),
    )
    run = foreign_run(file.stem, notes["model"], notes["engine"], result.date, {task: replace(entry, protocol_sha256=notes["settings"])})
    return task, replace(run, model=replace(run.model, fingerprint=notes["fingerprint"]))


def _require_known(task: str, protocol: str, metric: str, settings: str, where: str) -> None:
    """Raises EvalkitError where a protocol of this evalkit has other settings, or its task another headline.

    Of a task or protocol that is someone's own, or was judged under a judge's settings too, neither is known here.
    """
    cls = task_classes().get(task.partition(":")[0])
    base, *form = protocol.split("+")
    if (
        cls is None
        or base not in cls.protocols
        or issubclass(cls, JudgedTask)
        or any(part.startswith(("system-", "file-")) for part in form)
    ):
        return
    known = resolve(f"{task}@{protocol}").protocol
    if settings != (own := sha256_json(asdict(known))):
        raise EvalkitError(
            f"{where}: settings {settings:.16} are not those of {known}, {own:.16}; it was run by another evalkit: run it again"
        )
    if not issubclass(cls, AggregatedTask | SuiteTask) and metric != known.headline:
        raise EvalkitError(f"{where}: metric {metric!r:.40} is not {known.headline}, the headline of {known}; export the run again")


def _doubled(node: Any) -> str | None:
    """A key that an object of a YAML document has twice, of which the loader keeps the last."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        names = [str(name.value) for name, _ in node.value]
        found = next((name for name in names if names.count(name) > 1), None)
        return found or next(filter(None, (_doubled(value) for _, value in node.value)), None)
    return next(filter(None, map(_doubled, node.value)), None) if isinstance(node, yaml.SequenceNode) else None


def _plain(raw: Any) -> Any:
    """YAML's dates as texts; numbers and all else as they are."""
    if isinstance(raw, date | datetime):
        return raw.isoformat()
    if isinstance(raw, dict):
        return {str(name): _plain(value) for name, value in raw.items()}
    return [_plain(value) for value in raw] if isinstance(raw, list) else raw
