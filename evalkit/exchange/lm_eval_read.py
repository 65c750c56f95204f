"""lm-eval's results (of 0.4.0 to 0.4.13), its own or exported by us, as typed rows.

results_<time>.json, or FILE_<time>.json for `--output_path FILE.json`, and samples_<task>_<time>.jsonl; before 0.4.3 results.json and
<model arguments>_<task>.jsonl, a list. The one reader of these files: `compare`, `gate`, `view` and `report` all start from what it
returns.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evalkit.codec import parse_json
from evalkit.errors import EvalkitError
from evalkit.exchange.recorded import CHANGED
from evalkit.exchange.stated import SHARES
from evalkit.files import read_text
from evalkit.hashing import sha256_json, sha256_text
from evalkit.record.read import read_rows

_TIME = "????-??-??T"  # how the time in a file's name begins
FAILED = "[invalid]"  # what lm-eval's regex filter leaves where nothing matched
# what in a task's configuration decides its figure beside documents and prompts
_PROTOCOL = ("output_type", "num_fewshot", "repeats", "filter_list", "metric_list")
# keys of a row that are no metrics, where the row does not list its metrics (before 0.4.6)
_NOT_METRICS = ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "doc_hash", "prompt_hash", "target_hash")
# what a damaged file raises where it is taken apart
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Row:
    """One document and filter of a samples file.

    `asked`: the arguments of each request, the context first. `logprobs`: (log-probability, is greedy) of each response, or else
    `texts`. `metrics` by name, as this filter gives them. `doc_hash` covers the target too, `prompt_hash` all arguments (context,
    choices, generation settings), not the context alone as lm-eval's does.
    """

    doc_id: str
    doc: Any
    doc_hash: str
    prompt_hash: str
    target: str
    asked: Sequence[Sequence[Any]]
    logprobs: Sequence[tuple[float, bool]]
    texts: Sequence[str]
    filter: str
    filtered: Sequence[str]
    metrics: Mapping[str, Any]

    @property
    def extraction_failed(self) -> bool:
        return FAILED in self.filtered


@dataclass(frozen=True, slots=True)
class Leaf:
    """A task with documents of its own. `file` holds its samples, None where there are none; `n` documents were run, of `n_total`."""

    name: str
    file: Path | None
    protocol: Mapping[str, str]  # the settings that decide its figure, by name
    filters: Sequence[str]  # in the order of their rows
    aggregations: Mapping[str, str]  # of metrics, where its configuration names them
    evalkit_protocol: str  # of our own export, else ""
    lower_is_better: frozenset[str]  # metrics
    n: int | None
    n_total: int | None
    sha256: str | None  # lm-eval's own hash of documents and prompts

    def rows(self) -> Iterator[Row]:
        """Raises EvalkitError where there are no samples, or with the document that can't be read."""
        if self.file is None:
            stated = f"{self.n:,}" if self.n is not None else "its"
            raise EvalkitError(f"{self.name} has no samples, and its results are of {stated} documents; run lm-eval with --log_samples")
        seen: Counter[str] = Counter()
        for raw in _rows(self.file):
            try:
                doc_id = str(raw["doc_id"])
                row = _row(raw, raw["filter"] if "filter" in raw else self.filters[seen[doc_id]])
                seen[doc_id] += 1
            except _DAMAGED as error:
                raise EvalkitError(
                    f"{self.file}: document {raw.get('doc_id')!r:.40} can't be read ({error!r:.100}); rows of lm-eval 0.4.0 and later can"
                ) from None
            if not _is_its_target(raw):
                raise EvalkitError(
                    f"{self.file}: document {doc_id:.40}: target {row.target!r:.40} is not its target_hash's; run lm-eval again"
                )
            yield row


@dataclass(frozen=True, slots=True)
class Results:
    """One or several results files of one model, with the samples beside them; of a task that several hold, the newest's.

    `figures` by task, then by "metric,filter"; `groups`: the tasks and groups that each group names; `notes`: what was passed over.
    """

    files: Sequence[Path]
    model: str
    version: str
    started: str | None
    git: str | None
    figures: Mapping[str, Mapping[str, Any]]
    groups: Mapping[str, Sequence[str]]
    leaves: Mapping[str, Leaf]
    notes: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        return self.files[0].parent


def find_results(place: Path) -> list[Path]:
    """All results files of a folder, which may be lm-eval's output folder of one model, the oldest first. Raises EvalkitError."""
    if place.is_file():
        return [place]
    patterns = [f"{folder}{name}" for folder in ("", "*/") for name in ("results_*.json", f"*_{_TIME}*.json", "results.json")]
    files = next((found for pattern in patterns if (found := sorted(place.glob(pattern)))), [])
    if not files:
        raise EvalkitError(
            f"{place} is not a run: it holds neither run.json nor lm-eval's results_<time>.json, nor a format of docs/exchange.md"
        )
    if len(folders := sorted({file.parent.name for file in files})) > 1:
        raise EvalkitError(f"{place} holds results of several models; give one of {', '.join(str(place / f) for f in folders)}")
    return files


def read_results(files: Sequence[Path]) -> Results:
    """Results files of one folder, the oldest first. Raises EvalkitError where one is none, or where they are of different models."""
    *older, found = [_read_file(file) for file in files]
    for earlier in reversed(older):
        if earlier.model != found.model:
            folder = found.folder
            raise EvalkitError(f"{folder} holds results of {earlier.model} and of {found.model}; give one results file: {found.files[0]}")
        found = _merged(earlier, found)
    return found


def _merged(older: Results, newer: Results) -> Results:
    twice = sorted(older.leaves.keys() & newer.leaves.keys())
    passed_over = [f"{', '.join(twice)} of {older.files[0].name}: passed over for newer results"] if twice else []
    return Results(
        [*older.files, *newer.files],
        newer.model,
        newer.version,
        newer.started,
        newer.git,
        {**older.figures, **newer.figures},
        {**older.groups, **newer.groups},
        {**older.leaves, **newer.leaves},
        [*passed_over, *newer.notes],
    )


def _read_file(file: Path) -> Results:
    try:
        raw = parse_json(read_text(file))
        time = found[0] if (found := re.findall(r"\d{4}-\d\d-\d\dT.*$", file.stem)) else ""
        if time:
            samples = {_name(path): path for path in sorted(file.parent.glob(f"samples_*_{time}.jsonl"))}
        else:
            begin = re.sub("/|=", "__", str(raw["config"]["model_args"]))
            samples = {name: path for name in raw["configs"] if (path := file.with_name(f"{begin}_{name}.jsonl")).is_file()}
        stated = raw.get("n-samples") or {}
        if not samples:
            raise EvalkitError(f"{file.parent} has no samples of {time or file.name}; run lm-eval with --log_samples")
        groups = _groups(raw, samples)
        return Results(
            [file],
            str(raw.get("model_name") or (raw.get("config") or {}).get("model_args") or "unnamed"),
            str(raw.get("lm_eval_version") or ""),
            _iso(raw.get("date")),
            raw.get("git_hash"),
            {task: dict(figures) for task, figures in raw["results"].items()},
            groups,
            {name: _leaf(file, raw, groups, name, samples.get(name)) for name in dict.fromkeys([*stated, *samples])},
        )
    except _DAMAGED as error:
        raise EvalkitError(f"{file} is not lm-eval's results ({error!r:.200})") from None


def _groups(raw: Mapping[str, Any], samples: Mapping[str, Path]) -> dict[str, Sequence[str]]:
    """The children of each group. An ordinary task is listed too, without children."""
    if "group_subtasks" in raw:
        return {str(group): [str(child) for child in children] for group, children in raw["group_subtasks"].items() if children}
    # our export before it wrote them: groups by name
    names = sorted(raw.get("groups", {}), key=len)
    found: dict[str, Sequence[str]] = {}
    for leaf in samples:
        if parents := [group for group in names if leaf.startswith(f"{group}_")]:
            found[parents[-1]] = [*found.get(parents[-1], ()), leaf]
    return found


def _name(samples: Path) -> str:
    return samples.stem.removeprefix("samples_").rpartition("_")[0]


def _leaf(source: Path, raw: Mapping[str, Any], groups: Mapping[str, Sequence[str]], name: str, file: Path | None) -> Leaf:
    # our export has one configuration for all leaves of a group
    top = next((group for group, children in groups.items() if name in children and group in raw["configs"]), name)
    config = raw["configs"].get(name, raw["configs"].get(top, {}))
    settings = {f"{name} {key}": json.dumps(config[key], sort_keys=True) for key in _PROTOCOL if config.get(key) is not None}
    metrics = config.get("metric_list") or []
    if "higher_is_better" in raw:
        better = {**raw["higher_is_better"].get(top, {}), **raw["higher_is_better"].get(name, {})}
    else:  # before 0.4.3
        better = {each["metric"]: each.get("higher_is_better") for each in metrics}
    counts = (raw.get("n-samples") or {}).get(name, {})
    versions, ours = raw.get("versions", {}), str((config.get("metadata") or {}).get("evalkit_protocol") or "")
    if ours and versions.get(top) not in (None, version := f"evalkit {ours}"):
        raise EvalkitError(f"{source}: version of {top} is {versions[top]!r:.40}, and evalkit wrote {version!r:.60}; {CHANGED}")
    lower_is_better = frozenset(metric for metric, higher in better.items() if higher is False)
    if ours and (odd := sorted(lower_is_better & SHARES)):
        raise EvalkitError(f"{source}: higher_is_better of {odd[0]} of {name} is false, and evalkit wrote true; {CHANGED}")
    return Leaf(
        name,
        file,
        settings | {f"{name} version": str(versions.get(name))},
        [str(each["name"]) for each in config.get("filter_list") or []] or ["none"],
        {str(each["metric"]): str(each["aggregation"]) for each in metrics if each.get("aggregation")},
        ours,
        lower_is_better,
        _count(counts.get("effective")),
        _count(counts.get("original")),
        raw.get("task_hashes", {}).get(name),
    )


def _count(value: Any) -> int | None:
    return value if type(value) is int else None


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a samples file: an object a line, or the list that lm-eval wrote before 0.4.3."""
    if file.name.startswith("samples_"):
        yield from read_rows(file)
        return
    try:
        rows = parse_json(read_text(file))
    except (OSError, ValueError) as error:
        raise EvalkitError(f"{file} is damaged ({error}); run lm-eval again") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise EvalkitError(f"{file} is no list of objects; run lm-eval again")
    yield from rows


def _row(raw: Mapping[str, Any], filter_name: Any) -> Row:
    arguments = raw["arguments"]
    asked: list[list[Any]] = [list(a.values()) for a in arguments.values()] if isinstance(arguments, dict) else [list(a) for a in arguments]
    responses = [response for request in raw["resps"] for response in request]
    scored = isinstance(responses[0], list)  # log-probabilities, as text
    if not asked or not all(asked):
        raise ValueError("a request without a context")
    return Row(
        str(raw["doc_id"]),
        raw["doc"],
        # no row had a hash before 0.4.3
        f"{raw['doc_hash']}{raw['target_hash']}" if "doc_hash" in raw else sha256_json([raw["doc"], raw["target"]]),
        sha256_json(arguments),
        str(raw["target"]),
        asked,
        [(float(logprob), str(greedy) == "True") for logprob, greedy in responses] if scored else [],
        [] if scored else [str(response) for response in responses],
        str(filter_name),
        [str(part) for part in raw["filtered_resps"]],
        {str(name): raw[name] for name in (raw["metrics"] if "metrics" in raw else [key for key in raw if key not in _NOT_METRICS])},
    )


def _is_its_target(raw: Mapping[str, Any]) -> bool:
    """Has the row's target the hash that is there, as lm-eval writes both since 0.4.3? What is no sha256 is another program's."""
    target, digest = raw["target"], raw.get("target_hash")
    return not isinstance(target, str) or not isinstance(digest, str) or len(digest) != 64 or digest == sha256_text(target)


def _iso(date: Any) -> str | None:
    """lm-eval writes seconds since 1970, our export a date."""
    if isinstance(date, float):
        return datetime.fromtimestamp(date, UTC).isoformat(timespec="seconds")
    return date if isinstance(date, str) else None
