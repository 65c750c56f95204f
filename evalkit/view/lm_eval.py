"""lm-eval's results as the page shows a run. Scores, groups and filters are those that `evalkit compare` reads."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalkit.exchange.lm_eval_answers import LmEvalTask, read_tasks
from evalkit.exchange.lm_eval_read import Leaf, Results, Row, find_results, read_results
from evalkit.hashing import sha256_json
from evalkit.record.pairs import TaskAnswers
from evalkit.stats.estimate import mean, normal
from evalkit.view.data import ViewedRequest, ViewedRun, ViewedSample, likelihoods


def read_lm_eval(place: Path) -> ViewedRun:
    """A folder of results, or one results file, with the samples beside it. Raises EvalkitError."""
    results = read_results(find_results(place))
    folder = results.folder
    tasks, notes = read_tasks(results)
    samples: dict[str, dict[str, ViewedSample]] = {task.answers.name: {} for task in tasks}
    for task in tasks:
        found = samples[task.answers.name]
        for leaf in task.leaves:
            for row in leaf.rows():
                key = f"{leaf.name}/{row.doc_id}"
                if key not in task.answers.answers:  # has another metric
                    continue
                found[key] = _sample(row, leaf, task.answers, key, found.get(key))
    about = {
        "name": folder.name,
        "status": "complete",
        "command": None,
        "started": results.started,
        "model": {"spec": results.model, "fingerprint": None, "engine": f"lm-eval {results.version}".strip()},
        "git": results.git,
        "notes": [*results.notes, *notes],
        "tasks": {task.answers.name: _figures(task, samples[task.answers.name], results) for task in tasks},
    }
    return ViewedRun("lm-eval", folder, folder.name, True, about, samples)


def _figures(viewed: LmEvalTask, samples: Mapping[str, ViewedSample], results: Results) -> dict[str, Any]:
    task, leaves = viewed.answers, viewed.leaves
    value, ci95 = _figure(viewed, samples, results)
    return {
        "protocol": viewed.protocol,
        "metric": task.metric,
        "value": value,
        "ci95": ci95,
        "n": len(samples),
        "n_total": viewed.n_total,
        "counts": {"extraction_failed": failed} if (failed := sum(s.extraction_failed for s in samples.values())) else {},
        "data": {"source": "lm-eval", "revision": None, "sha256": _digest([leaf.sha256 for leaf in leaves])},
    }


def _digest(hashes: Sequence[str | None]) -> str | None:
    """lm-eval's own hash of a task's documents and prompts; of a group's leaves, one over theirs."""
    if not all(hashes):
        return None
    return hashes[0] if len(hashes) == 1 else sha256_json(hashes)


def _figure(viewed: LmEvalTask, samples: Mapping[str, ViewedSample], results: Results) -> tuple[Any, list[float] | None]:
    """lm-eval's own value; its interval from the documents where they say the same, else from lm-eval's standard error."""
    task, figures = viewed.answers, results.figures.get(viewed.name, {})
    scores = [sample.score for sample in samples.values() if sample.score is not None]
    estimate = mean(scores) if scores and len(scores) == len(samples) else None
    value = figures.get(task.metric, estimate.value if estimate else None)
    if estimate and math.isclose(estimate.value, value, abs_tol=1e-9):
        return value, list(estimate.ci95)
    name, _, chosen = task.metric.partition(",")
    stderr = figures.get(f"{name}_stderr,{chosen}")
    return value, list(normal(value, stderr)) if isinstance(stderr, float) and isinstance(value, float) else None


def _sample(row: Row, leaf: Leaf, task: TaskAnswers, key: str, known: ViewedSample | None) -> ViewedSample:
    """lm-eval writes one row per document and filter: the headline's filter gives the answer, every filter its metrics."""
    metrics = {f"{name},{row.filter}": value for name, value in row.metrics.items()}
    if known is not None and task.metric not in metrics:
        return replace(known, metrics={**known.metrics, **metrics})
    answer = task.answers[key]
    requests, responses = _exchanges(row)
    return ViewedSample(
        leaf.name,
        answer.doc_hash,
        answer.prompt_hash,
        row.doc,
        row.target,
        answer.shown,
        row.extraction_failed,
        answer.score if isinstance(answer.score, float) else None,
        not isinstance(answer.score, float),
        {**(known.metrics if known else {}), **metrics},
        requests,
        responses,
    )


def _exchanges(row: Row) -> tuple[list[ViewedRequest], list[dict[str, Any]]]:
    """Requests and responses; options of one context are one request."""
    if not row.logprobs:
        requests = [
            ViewedRequest(_text(each[0]), dict(each[1]) if len(each) > 1 and isinstance(each[1], dict) else {}) for each in row.asked
        ]
        return requests, [{"text": text} for text in row.texts]
    contexts = [_text(each[0]) for each in row.asked]
    options = [[str(part) for part in each[1:2]] for each in row.asked]
    if len(set(contexts)) == 1 and all(options):
        request = ViewedRequest(contexts[0], {"continuations": [option for (option,) in options]})
        return [request], [likelihoods(row.logprobs)]
    requests = [ViewedRequest(context, {"continuations": option}) for context, option in zip(contexts, options, strict=True)]
    return requests, [likelihoods([pair]) for pair in row.logprobs]


def _text(context: Any) -> str:
    return context if isinstance(context, str) else json.dumps(context, ensure_ascii=False)
