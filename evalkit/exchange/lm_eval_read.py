"""lm-eval's results (0.4.13: results_<time>.json and samples_<task>_<time>.jsonl), lm-eval's own or exported by us, as typed rows.

The one reader of these files: `evalkit compare` and `evalkit view` both start from what it returns.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.hashing import sha256_json
from evalkit.record.read import read_rows

FAILED = "[invalid]"  # what lm-eval's regex filter leaves where nothing matched
# what in a task's configuration decides its figure beside documents and prompts
_PROTOCOL = ("output_type", "num_fewshot", "repeats", "filter_list", "metric_list")


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
    """One samples file. `task` is the group that its task belongs to at the top, or the task itself."""

    name: str
    task: str
    file: Path
    protocol: Mapping[str, str]  # the settings that decide its figure, by name
    evalkit_protocol: str  # of our own export, else ""
    lower_is_better: frozenset[str]  # metrics
    n_total: int | None
    sha256: str | None  # lm-eval's own hash of documents and prompts

    def rows(self) -> Iterator[Row]:
        """Raises EvalkitError with the document that can't be read."""
        for raw in read_rows(self.file):
            try:
                yield _row(raw)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise EvalkitError(
                    f"{self.file}: document {raw.get('doc_id')} can't be read ({error!r}); was it made by lm-eval 0.4?"
                ) from None


@dataclass(frozen=True, slots=True)
class Results:
    """One results file with the samples beside it. `figures` by task, then by "metric,filter"."""

    file: Path
    model: str
    version: str
    started: str | None
    git: str | None
    figures: Mapping[str, Mapping[str, Any]]
    leaves: Sequence[Leaf]


def find_results(place: Path) -> Path:
    """The newest results file of a folder, which may be lm-eval's output folder of one model. Raises EvalkitError."""
    if place.is_file():
        return place
    files = sorted(place.glob("results_*.json")) or sorted(place.glob("*/results_*.json"))
    if not files:
        raise EvalkitError(f"{place} is not a run: it holds neither run.json nor lm-eval's results_<time>.json")
    if len(folders := sorted({file.parent.name for file in files})) > 1:
        raise EvalkitError(f"{place} holds results of several models; give one of {', '.join(str(place / f) for f in folders)}")
    return files[-1]


def read_results(file: Path) -> Results:
    """One results file. Raises EvalkitError where it is none, or has no samples beside it."""
    try:
        raw = json.loads(file.read_text("utf-8"))
        time = file.stem.removeprefix("results_")
        samples = sorted(file.parent.glob(f"samples_*_{time}.jsonl"))
        if not samples:
            raise EvalkitError(f"{file.parent} has no samples of {time}; run lm-eval with --log_samples")
        return Results(
            file,
            str(raw.get("model_name") or "unnamed"),
            str(raw.get("lm_eval_version") or ""),
            _iso(raw.get("date")),
            raw.get("git_hash"),
            {task: dict(figures) for task, figures in raw.get("results", {}).items()},
            [_leaf(raw, _parents(raw, samples), path) for path in samples],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvalkitError(f"{file} is not lm-eval's results ({error!r})") from None


def _parents(raw: Mapping[str, Any], samples: Sequence[Path]) -> dict[str, str]:
    """The group of each task."""
    if parents := {child: parent for parent, children in raw.get("group_subtasks", {}).items() for child in children}:
        return parents
    # our export names groups, not their leaves
    groups = sorted(raw.get("groups", {}), key=len)
    return {leaf: group for leaf in map(_name, samples) for group in reversed(groups) if leaf.startswith(f"{group}_")}


def _name(samples: Path) -> str:
    return samples.stem.removeprefix("samples_").rpartition("_")[0]


def _leaf(raw: Mapping[str, Any], parents: Mapping[str, str], file: Path) -> Leaf:
    name = task = _name(file)
    while task in parents:
        task = parents[task]
    config = raw["configs"].get(name, raw["configs"].get(task, {}))
    settings = {f"{name} {key}": json.dumps(config[key], sort_keys=True) for key in _PROTOCOL if config.get(key) is not None}
    better = {**raw["higher_is_better"].get(task, {}), **raw["higher_is_better"].get(name, {})}
    n_total = raw.get("n-samples", {}).get(name, {}).get("original")
    return Leaf(
        name,
        task,
        file,
        settings | {f"{name} version": str(raw.get("versions", {}).get(name))},
        str(config.get("metadata", {}).get("evalkit_protocol") or ""),
        frozenset(metric for metric, higher in better.items() if higher is False),
        n_total if isinstance(n_total, int) else None,
        raw.get("task_hashes", {}).get(name),
    )


def _row(raw: Mapping[str, Any]) -> Row:
    arguments = raw["arguments"]
    asked: list[list[Any]] = [list(a.values()) for a in arguments.values()] if isinstance(arguments, dict) else [list(a) for a in arguments]
    responses = [response for request in raw["resps"] for response in request]
    scored = isinstance(responses[0], list)  # log-probabilities, as text
    return Row(
        str(raw["doc_id"]),
        raw["doc"],
        f"{raw['doc_hash']}{raw['target_hash']}",
        sha256_json(arguments),
        str(raw["target"]),
        asked,
        [(float(logprob), str(greedy) == "True") for logprob, greedy in responses] if scored else [],
        [] if scored else [str(response) for response in responses],
        str(raw["filter"]),
        [str(part) for part in raw["filtered_resps"]],
        {name: raw[name] for name in raw["metrics"]},
    )


def _iso(date: Any) -> str | None:
    """lm-eval writes seconds since 1970, our export a date."""
    if isinstance(date, float):
        return datetime.fromtimestamp(date, UTC).isoformat(timespec="seconds")
    return date if isinstance(date, str) else None
