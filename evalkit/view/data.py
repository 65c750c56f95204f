"""A run as the page shows it: who answered, every figure with what it depends on, and every sample as it was recorded."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.record.pairs import read_rows, score_of
from evalkit.record.read import read_run


@dataclass(frozen=True, slots=True)
class ViewedSample:
    """One document's sample. `score`: the headline metric's, None where the document has none.

    `graded`: right and wrong are not what the score tells (a judge's rating; BLEU, which only a corpus has).
    """

    group: str
    doc_hash: str
    prompt_hash: str
    doc: Any
    target: str
    extracted: str
    extraction_failed: bool
    score: float | None
    graded: bool
    metrics: Mapping[str, Any]
    requests: Sequence[Mapping[str, Any]]
    responses: Sequence[Mapping[str, Any]]
    judgments: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class ViewedRun:
    """One run: `about` is the page's header (JSON), `samples` by task and document; `source`: evalkit or lm-eval."""

    source: str
    folder: Path
    name: str
    about: Mapping[str, Any]
    samples: Mapping[str, Mapping[str, ViewedSample]]

    @property
    def n(self) -> int:
        return sum(map(len, self.samples.values()))


def read(path: str) -> ViewedRun:
    """A run's folder, its run.json, or lm-eval's results (folder or file). Incomplete runs are read as far as they got.

    Raises EvalkitError.
    """
    from evalkit.exchange.lm_eval_read import find_results
    from evalkit.view.lm_eval import read_lm_eval

    place = Path(path)
    if not place.exists():
        raise EvalkitError(f"{path}: no such run; give a run's folder, a run.json, or an lm-eval results folder")
    ours = (place / "run.json").exists() if place.is_dir() else not place.name.startswith("results")
    run = _read_ours(place) if ours else read_lm_eval(find_results(place))
    if not run.n:
        raise EvalkitError(f"{path} holds no finished task, so no sample to show")
    return run


def _read_ours(place: Path) -> ViewedRun:
    record = read_run(str(place))
    folder = place if place.is_dir() else place.parent
    try:
        name, about = str(record["name"]), _about(record)
        readings = {task: _reading(entry) for task, entry in record["tasks"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise EvalkitError(f"{place} can't be read ({error!r}); run it again") from None
    samples = {}
    for task, reading in readings.items():
        file = folder / "samples" / f"{task}.jsonl"
        samples[task] = numbered((str(row.get("doc_id")), _sample(row, reading, file)) for row in read_rows(file))
    return ViewedRun("evalkit", folder, name, about, samples)


@dataclass(frozen=True, slots=True)
class _Reading:
    """How a task's samples are read: the metric that scores a document (of a suite, its cell's), and whether a judge rated it."""

    headline: str
    cells: Mapping[str, str]
    judged: bool


def _reading(entry: Mapping[str, Any]) -> _Reading:
    return _Reading(entry["headline"], {cell["name"]: cell["metric"] for cell in entry.get("cells", ())}, "judge" in entry)


def _about(record: Mapping[str, Any]) -> dict[str, Any]:
    model = record["model"]
    return {
        "name": record["name"],
        "status": record["status"],
        "command": record["command"],
        "started": record.get("started"),
        "model": {key: model.get(key) for key in ("spec", "fingerprint", "engine", "dtype", "device")},
        "git": record.get("environment", {}).get("git"),
        "tasks": {
            task: {
                "protocol": entry["protocol"],
                "metric": entry["headline"],
                **{key: entry["metrics"].get(entry["headline"], {}).get(key) for key in ("value", "ci95")},
                "n": entry["n"],
                "n_total": entry["n_total"],
                "counts": {what: count for what, count in entry["counts"].items() if count},
                "data": entry["data"],
            }
            for task, entry in record["tasks"].items()
        },
    }


def _sample(row: Mapping[str, Any], reading: _Reading, file: Path) -> ViewedSample:
    try:
        metric = reading.cells.get(row["group"], reading.headline)
        score, corpus = read_score(row["metrics"].get(metric), metric)
        return ViewedSample(
            str(row["group"]),
            str(row["doc_hash"]),
            str(row["prompt_hash"]),
            row["doc"],
            str(row["target"]),
            str(row["extracted"]),
            bool(row["extraction_failed"]),
            score,
            corpus or (reading.judged and score is not None),
            dict(row["metrics"]),
            [dict(request) for request in row["requests"]],
            [dict(response) for response in row["responses"]],
            [dict(judgment) for judgment in row.get("judgments", ())],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EvalkitError(f"{file}: document {row.get('doc_id')!r} can't be read ({error!r}); run it again") from None


def read_score(value: Any, metric: str) -> tuple[float | None, bool]:
    """(the document's own score, whether only the corpus has one); (None, False) is unscored."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, False
    score = score_of(value, metric)
    return (score, False) if isinstance(score, float) else (None, True)


def numbered(samples: Iterable[tuple[str, ViewedSample]]) -> dict[str, ViewedSample]:
    """By document; a document that was answered several times keeps every answer, as "ID (2)" and so on."""
    found: dict[str, ViewedSample] = {}
    times: dict[str, int] = {}
    for doc_id, sample in samples:
        times[doc_id] = times.get(doc_id, 0) + 1
        found[doc_id if times[doc_id] == 1 else f"{doc_id} ({times[doc_id]})"] = sample
    return found
