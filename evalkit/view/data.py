"""A run as the page shows it: the model, every figure with what it depends on, and every sample as it was recorded."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalkit.codec import encode
from evalkit.record.pairs import score_of
from evalkit.record.read import read_run, read_samples, run_folder
from evalkit.record.sample import SampleRow
from evalkit.record.schema import Run, TaskEntry
from evalkit.tasks import Loglikelihoods, Request, Response

DECIMALS = 4  # of log-probabilities: the page shows three


@dataclass(frozen=True, slots=True)
class ViewedRequest:
    """A prompt, and the settings that it was sent with."""

    context: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ViewedSample:
    """One document's sample. `score`: the headline metric's, None where the document has none.

    `graded`: the score does not say right or wrong (a judge's rating; BLEU, which only a corpus has). `responses` and
    `judgments` are JSON, as the page reads them.
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
    requests: Sequence[ViewedRequest]
    responses: Sequence[Mapping[str, Any]]
    judgments: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class ViewedRun:
    """One run: `about` is the page's header (JSON), `samples` by task and document; `source`: whose hashes it has."""

    source: str
    folder: Path
    name: str
    is_complete: bool
    about: Mapping[str, Any]
    samples: Mapping[str, Mapping[str, ViewedSample]]
    is_shard: bool = False

    @property
    def n(self) -> int:
        return sum(map(len, self.samples.values()))


def read_ours(place: Path) -> ViewedRun:
    """A run of ours, one that is incomplete as far as it got. Raises EvalkitError."""
    run, folder = read_run(place), run_folder(place)
    return viewed(run, folder, {task: read_samples(folder, task) for task in run.tasks})


def viewed(run: Run, folder: Path, rows: Mapping[str, Iterable[SampleRow]], source: str = "evalkit") -> ViewedRun:
    """A run with the rows of its tasks. Other programs' rows have no settings of requests, and of responses the text alone."""
    samples = {task: numbered((row.doc_id, _sample(row, entry)) for row in rows[task]) for task, entry in run.tasks.items()}
    if source != "evalkit":
        samples = {task: {doc: _bare(sample) for doc, sample in some.items()} for task, some in samples.items()}
    return ViewedRun(source, folder, run.name, run.is_complete, _about(run), samples, run.shard is not None)


def _about(run: Run) -> dict[str, Any]:
    model = run.model
    return {
        "name": run.name,
        "status": f"shard {run.shard}" if run.shard else run.status,
        "command": run.command,
        "started": run.started,
        "model": {
            "spec": model.spec,
            "fingerprint": model.fingerprint,
            "engine": model.engine,
            "dtype": model.dtype,
            "device": model.device,
        },
        "git": run.environment.git,
        "tasks": {task: _about_task(entry) for task, entry in run.tasks.items()},
    }


def _about_task(entry: TaskEntry) -> dict[str, Any]:
    figure = entry.figure
    return {
        "protocol": entry.protocol,
        "metric": entry.headline,
        "value": figure.value if figure else None,
        "ci95": list(figure.ci95) if figure else None,
        "n": entry.n,
        "n_total": entry.n_total,
        "counts": {what: count for what, count in encode(entry.counts).items() if count},
        "data": encode(entry.data),
    }


def _sample(row: SampleRow, entry: TaskEntry) -> ViewedSample:
    """Scored by the headline metric, of a suite by its cell's."""
    metric = next((cell.metric for cell in entry.cells if cell.name == row.group), entry.headline)
    score, corpus = (None, True) if metric in row.parts else read_score(row.metrics.get(metric), metric)
    return ViewedSample(
        row.group,
        row.doc_hash,
        row.prompt_hash,
        row.doc,
        row.target,
        row.extracted,
        row.extraction_failed,
        score,
        corpus or (entry.judge is not None and score is not None),
        encode({**row.metrics, **row.parts}),
        [_request(request) for request in row.requests],
        [_response(response) for response in row.responses],
        encode(row.judgments),
    )


def _bare(sample: ViewedSample) -> ViewedSample:
    requests = [ViewedRequest(each.context, {"messages": m} if (m := each.settings.get("messages")) else {}) for each in sample.requests]
    return replace(sample, requests=requests, responses=[{"text": each["text"]} for each in sample.responses])


def _request(request: Request) -> ViewedRequest:
    settings = encode(request)
    return ViewedRequest(request.context, {k: v for k, v in settings.items() if k not in ("context", "kind") and (k != "messages" or v)})


def _response(response: Response) -> dict[str, Any]:
    if isinstance(response, Loglikelihoods):
        return {**encode(response), **likelihoods(zip(response.logprobs, response.is_greedy, strict=True))}
    said: dict[str, Any] = encode(response)
    return said


def likelihoods(pairs: Iterable[tuple[float, bool]]) -> dict[str, Any]:
    """(log-probability, is greedy) of each continuation, as the page reads them."""
    logprobs, is_greedy = zip(*pairs, strict=True)
    return {"logprobs": [round(float(logprob), DECIMALS) for logprob in logprobs], "is_greedy": list(is_greedy)}


def read_score(value: Any, metric: str) -> tuple[float | None, bool]:
    """(the document's own score, whether only the corpus has one); (None, False) is unscored."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, False
    score = score_of(value, metric)
    return (score, False) if isinstance(score, float) else (None, True)


def numbered(samples: Iterable[tuple[str, ViewedSample]]) -> dict[str, ViewedSample]:
    """By document; further answers to a document are kept as "ID (2)" and so on."""
    found: dict[str, ViewedSample] = {}
    times: dict[str, int] = {}
    for doc_id, sample in samples:
        times[doc_id] = times.get(doc_id, 0) + 1
        found[doc_id if times[doc_id] == 1 else f"{doc_id} ({times[doc_id]})"] = sample
    return found
