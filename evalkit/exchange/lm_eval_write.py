"""Writes a run in lm-eval's layout too, for tools that read it: lm_eval/<org__model>/results_<time>.json and samples_<task>_<time>.jsonl.

Layout and keys: lm-eval 0.4.13, loggers/evaluation_tracker.py. One file of samples a leaf task (mmlu_anatomy, ..), as there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.exchange.recorded import OURS, Recorded, Written
from evalkit.files import shortened, write_atomically
from evalkit.hashing import sha256_text
from evalkit.record.sample import Sample, SampleRow
from evalkit.record.schema import Metrics, Run
from evalkit.tasks import Doc, Generate, Generated, Loglikelihood, Loglikelihoods, Request, Scored
from evalkit.tasks.lm_eval.options import PREFIX

_FILTERS = {"exact_match_strict": ("exact_match", "strict-match"), "exact_match_flexible": ("exact_match", "flexible-extract")}


def write(folder: Path, run: Run, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Write results and samples below `folder`; files of earlier sessions of the run are replaced."""
    time = run.started.replace(":", "-")
    target = folder / shortened(run.model.spec.strip("/").replace("/", "__"))
    for old in target.glob("*_????-??-??T*.json*"):
        old.unlink()
    for name, task_samples in samples.items():
        leaves: dict[str, list[Sample]] = {}
        for sample in task_samples:
            leaves.setdefault(_part(name, sample.doc.group) if run.tasks[name].subjects else _theirs(name), []).append(sample)
        for leaf, members in leaves.items():
            write_atomically(
                target / f"samples_{leaf}_{time}.jsonl", (json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(members))
            )
    write_atomically(target / f"results_{time}.json", [json.dumps(_results(run), indent=2, ensure_ascii=False)])


def export(recorded: Recorded, out: Path, options: Mapping[str, str]) -> Written:
    """`write` of a run that is read. Raises EvalkitError where its samples are not there, or not evalkit's, with their settings."""
    recorded.require_samples()
    if recorded.source != OURS:
        raise EvalkitError(f"{recorded.path} is {recorded.source}'s and does not say with which settings each document was asked")
    write(out, recorded.run, {task: [sample_of(row) for row in rows] for task, rows in recorded.samples.items()})
    return Written(sorted(out.glob(f"*/*_{recorded.run.started.replace(':', '-')}.json*")))


def sample_of(row: SampleRow) -> Sample:
    """The sample of a line."""
    scored = Scored(row.metrics, row.extracted, row.target, row.extraction_failed, row.parts)
    return Sample(Doc(row.doc_id, row.group, row.doc, cluster=row.cluster), row.requests, row.responses, scored)


def _results(run: Run) -> dict[str, Any]:
    results: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    n_samples: dict[str, Any] = {}
    higher: dict[str, Any] = {}
    leaves = {_theirs(name): [_part(name, subject) for subject in task.subjects] for name, task in run.tasks.items()}
    for key, task in run.tasks.items():
        name = _theirs(key)
        entry = {"alias": name, **_figures(task.metrics)}
        results[name] = entry
        higher[name] = {_filtered(metric)[0]: metric not in task.lower_is_better for metric in task.metrics}
        if task.subjects:
            groups[name] = entry
            for category, metrics in task.groups.items():
                results[_part(key, category)] = groups[_part(key, category)] = {"alias": f" - {category}", **_figures(metrics)}
            for subject, metrics in task.subjects.items():
                results[_part(key, subject)] = {"alias": f"  - {subject}", **_figures(metrics)}
                n = next(iter(metrics.values())).n
                n_samples[_part(key, subject)] = {"original": n, "effective": n}
        else:
            n_samples[name] = {"original": task.n_total, "effective": task.n}
    return {
        "results": results,
        **({"groups": groups} if groups else {}),
        "group_subtasks": leaves,
        "configs": {
            _theirs(name): {"task": _theirs(name), "metadata": {"evalkit_protocol": task.protocol}} for name, task in run.tasks.items()
        },
        "versions": {_theirs(name): f"evalkit {task.protocol}" for name, task in run.tasks.items()},
        "higher_is_better": higher,
        "n-samples": n_samples,
        "config": {"model": run.model.engine, "model_args": run.model.spec, "limit": run.limit},
        "git_hash": run.environment.git,
        "date": run.started,
        "model_source": run.model.engine,
        "model_name": run.model.spec,
        "total_evaluation_time_seconds": str(run.seconds),
    }


def _theirs(task: str) -> str:
    """A task's name in lm-eval's files: one of lm-eval's own has its own."""
    return task.removeprefix(PREFIX)


def _part(task: str, part: str) -> str:
    """The name of a subject or category of a task: the members of lm-eval's groups have whole names."""
    return part if task.startswith(PREFIX) else f"{task}_{part}"


def _filtered(metric: str) -> tuple[str, str]:
    """A metric's name and filter."""
    name, _, filter_name = metric.partition(",")
    return _FILTERS.get(metric, (name, filter_name or "none"))


def _figures(metrics: Metrics) -> dict[str, float]:
    figures = {}
    for metric, estimate in metrics.items():
        name, filter_name = _filtered(metric)
        figures[f"{name},{filter_name}"] = estimate.value
        figures[f"{name}_stderr,{filter_name}"] = estimate.stderr
    return figures


def _rows(samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    """One row a sample and filter, as lm-eval writes them."""
    for index, sample in enumerate(samples):
        filters: dict[str, dict[str, float]] = {}
        for metric, value in {**sample.scored.metrics, **sample.scored.parts}.items():
            name, filter_name = _filtered(metric)
            filters.setdefault(filter_name, {})[name] = value
        arguments, resps = _arguments(sample), _resps(sample)
        for filter_name, metrics in filters.items():
            yield {
                "doc_id": index,
                "doc": dict(sample.doc.fields),
                "target": sample.scored.target,
                "arguments": arguments,
                "resps": resps,
                "filtered_resps": [r[0] for r in resps] if filter_name == "none" else [sample.scored.extracted],
                "filter": filter_name,
                "metrics": list(metrics),
                "doc_hash": sha256_text(json.dumps(dict(sample.doc.fields), indent=2, ensure_ascii=False)),
                "prompt_hash": sha256_text(_prompt(sample.requests[0])),
                "target_hash": sha256_text(sample.scored.target),
                **metrics,
            }


def _prompt(request: Request) -> str:
    """The context, or the conversation as JSON, which is what lm-eval records where a server applies the template."""
    if request.messages:
        begun = (("assistant", request.context),) if request.context else ()
        return json.dumps([{"role": role, "content": content} for role, content in (*request.messages, *begun)], ensure_ascii=False)
    return request.context


def _arguments(sample: Sample) -> dict[str, Any]:
    pairs: list[tuple[str, Any]] = []
    for request in sample.requests:
        if isinstance(request, Loglikelihood):
            pairs += [(_prompt(request), continuation) for continuation in request.continuations]
        elif isinstance(request, Generate):
            settings = {"until": list(request.until), "max_gen_toks": request.max_new_tokens, "temperature": request.temperature}
            pairs.append((_prompt(request), {**settings, "do_sample": request.temperature > 0}))
    return {f"gen_args_{i}": {"arg_0": a, "arg_1": b} for i, (a, b) in enumerate(pairs)}


def _resps(sample: Sample) -> list[list[Any]]:
    resps: list[list[Any]] = []
    for response in sample.responses:
        if isinstance(response, Loglikelihoods):
            resps += [[[str(p), str(g)]] for p, g in zip(response.logprobs, response.is_greedy, strict=True)]
        elif isinstance(response, Generated):
            resps.append([response.text])
    return resps
