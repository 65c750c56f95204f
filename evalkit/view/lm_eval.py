"""lm-eval's results (0.4.13) as the page shows a run. Scores, groups and filters are those that `evalkit compare` reads."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.exchange.lm_eval_read import read_results
from evalkit.hashing import sha256_json
from evalkit.record.pairs import TaskAnswers, read_rows
from evalkit.stats.estimate import mean, normal
from evalkit.view.data import ViewedRun, ViewedSample

FAILED = "[invalid]"  # what lm-eval's regex filter leaves where nothing matched


def read_lm_eval(file: Path) -> ViewedRun:
    """One results file with the samples beside it. Raises EvalkitError."""
    answers = read_results(file, str(file.parent))
    results = json.loads(file.read_text("utf-8"))
    task_of = {doc: name for name, task in answers.tasks.items() for doc in task.answers}
    samples: dict[str, dict[str, ViewedSample]] = {name: {} for name in answers.tasks}
    time = file.stem.removeprefix("results_")
    for samples_file in sorted(file.parent.glob(f"samples_*_{time}.jsonl")):
        leaf = samples_file.stem.removeprefix("samples_").rpartition("_")[0]
        for row in read_rows(samples_file):
            key = f"{leaf}/{row.get('doc_id')}"
            try:
                task = task_of[key]
                samples[task][key] = _sample(row, leaf, answers.tasks[task], key, samples[task].get(key))
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise EvalkitError(
                    f"{samples_file}: document {row.get('doc_id')} can't be read ({error!r}); was it made by lm-eval 0.4?"
                ) from None
    about = {
        "name": file.parent.name,
        "status": "complete",
        "command": None,
        "started": _iso(results.get("date")),
        "model": {"spec": answers.model, "fingerprint": None, "engine": f"lm-eval {results.get('lm_eval_version') or ''}".strip()},
        "git": results.get("git_hash"),
        "tasks": {name: _figures(task, samples[name], results) for name, task in answers.tasks.items()},
    }
    return ViewedRun("lm-eval", file.parent, file.parent.name, about, samples)


def _figures(task: TaskAnswers, samples: Mapping[str, ViewedSample], results: Mapping[str, Any]) -> dict[str, Any]:
    value, ci95 = _figure(task, samples, results)
    sizes = results.get("n-samples", {})
    leaves = {key.rpartition("/")[0] for key in samples}
    totals = [sizes.get(leaf, {}).get("original") for leaf in leaves]
    hashes = [results.get("task_hashes", {}).get(leaf) for leaf in sorted(leaves)]
    return {
        "protocol": task.protocol.get("protocol", task.name).partition("@")[2] or f"lm-eval's {task.name}",
        "metric": task.metric,
        "value": value,
        "ci95": ci95,
        "n": len(samples),
        "n_total": sum(totals) if all(isinstance(n, int) for n in totals) else None,
        "counts": {"extraction_failed": failed} if (failed := sum(o.extraction_failed for o in samples.values())) else {},
        "data": {"source": "lm-eval", "revision": None, "sha256": _digest(hashes)},
    }


def _digest(hashes: Sequence[str | None]) -> str | None:
    """lm-eval's own hash of a task's documents and prompts; of a group's leaves, one over theirs."""
    if not all(hashes):
        return None
    return hashes[0] if len(hashes) == 1 else sha256_json(list(hashes))


def _iso(date: Any) -> Any:
    """lm-eval writes seconds since 1970."""
    return datetime.fromtimestamp(date, UTC).isoformat(timespec="seconds") if isinstance(date, float) else date


def _figure(task: TaskAnswers, samples: Mapping[str, ViewedSample], results: Mapping[str, Any]) -> tuple[Any, list[float] | None]:
    """lm-eval's own value; its interval from the documents where they say the same, else from lm-eval's standard error."""
    entry = results.get("results", {}).get(task.name, {})
    scores = [sample.score for sample in samples.values() if sample.score is not None]
    estimate = mean(scores) if scores and len(scores) == len(samples) else None
    value = entry.get(task.metric, estimate.value if estimate else None)
    if estimate and math.isclose(estimate.value, value, abs_tol=1e-9):
        return value, list(estimate.ci95)
    name, _, chosen = task.metric.partition(",")
    stderr = entry.get(f"{name}_stderr,{chosen}")
    return value, list(normal(value, stderr)) if isinstance(stderr, float) and isinstance(value, float) else None


def _sample(row: Mapping[str, Any], leaf: str, task: TaskAnswers, key: str, known: ViewedSample | None) -> ViewedSample:
    """lm-eval writes a row a document and filter: the headline's filter gives the answer, every filter its metrics."""
    metrics = {f"{name},{row['filter']}": row[name] for name in row["metrics"]}
    if known is not None and task.metric not in metrics:
        return replace(known, metrics={**known.metrics, **metrics})
    score = task.answers[key].score
    requests, responses = _exchanges(row)
    filtered = [str(part) for part in row["filtered_resps"]]
    return ViewedSample(
        leaf,
        task.answers[key].doc_hash,
        task.answers[key].prompt_hash,
        row["doc"],
        str(row["target"]),
        task.answers[key].shown,
        FAILED in filtered,
        score if isinstance(score, float) else None,
        not isinstance(score, float),
        {**(known.metrics if known else {}), **metrics},
        requests,
        responses,
    )


def _exchanges(row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Requests and responses in our samples' form; options of one context are one request."""
    arguments = row["arguments"]
    asked: Sequence[Sequence[Any]] = [list(a.values()) for a in arguments.values()] if isinstance(arguments, dict) else arguments
    answers = [list(answer) for answer in row["resps"]]
    if not isinstance(answers[0][0], list):
        requests = [{"context": _text(each[0]), **(dict(each[1]) if len(each) > 1 and isinstance(each[1], dict) else {})} for each in asked]
        return requests, [{"text": str(text)} for answer in answers for text in answer]
    pairs = [(float(answer[0][0]), str(answer[0][1]) == "True") for answer in answers]
    if len({_text(each[0]) for each in asked}) == 1 and all(len(each) > 1 for each in asked):
        request = {"context": _text(asked[0][0]), "continuations": [str(each[1]) for each in asked]}
        return [request], [{"logprobs": [p for p, _ in pairs], "is_greedy": [g for _, g in pairs]}]
    requests = [{"context": _text(each[0]), "continuations": [str(part) for part in each[1:2]]} for each in asked]
    return requests, [{"logprobs": [p], "is_greedy": [g]} for p, g in pairs]


def _text(context: Any) -> str:
    return context if isinstance(context, str) else json.dumps(context, ensure_ascii=False)
