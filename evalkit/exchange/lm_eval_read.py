"""lm-eval's results (0.4.13: results_<time>.json and samples_<task>_<time>.jsonl), lm-eval's own or exported by us, as answers to compare.

A group's leaves (mmlu_anatomy, ..) are one task, every document counting the same. Documents are those that lm-eval's hashes name; of the
prompt all arguments count (context, choices, generation settings), not the context alone as in lm-eval's prompt_hash.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError, unknown
from evalkit.hashing import sha256_json
from evalkit.record.pairs import TAIL, Answer, RunAnswers, TaskAnswers, cluster_of, merge, read_rows, score_of

# what in a task's configuration decides its figure beside documents and prompts
_PROTOCOL = ("output_type", "num_fewshot", "repeats", "filter_list", "metric_list")


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


def read_results(file: Path, path: str, wanted: Sequence[str] = (), metric: str | None = None, cluster: str | None = None) -> RunAnswers:
    """One results file with the samples beside it. `metric`: acc_norm, or with its filter: exact_match,strict-match."""
    try:
        results = json.loads(file.read_text("utf-8"))
        configs: Mapping[str, Any] = results["configs"]
        higher: Mapping[str, Any] = results["higher_is_better"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvalkitError(f"{file} is not lm-eval's results ({error!r})") from None
    time = file.stem.removeprefix("results_")
    samples = sorted(file.parent.glob(f"samples_*_{time}.jsonl"))
    if not samples:
        raise EvalkitError(f"{file.parent} has no samples of {time}; run lm-eval with --log_samples")
    parents = {child: parent for parent, children in results.get("group_subtasks", {}).items() for child in children}
    if not parents:  # our export names groups, not their leaves
        groups = sorted(results.get("groups", {}), key=len)
        parents = {leaf: group for leaf in map(_leaf, samples) for group in reversed(groups) if leaf.startswith(f"{group}_")}
    answers: dict[str, dict[str, Answer]] = {}
    protocols: dict[str, dict[str, str]] = {}
    metrics: dict[str, set[str]] = {}
    for sample_file in samples:
        leaf = _leaf(sample_file)
        task = leaf
        while task in parents:
            task = parents[task]
        if wanted and task not in wanted:
            continue
        better = {**higher.get(task, {}), **higher.get(leaf, {})}
        chosen, found = _read_leaf(sample_file, leaf, metric, cluster, better)
        answers.setdefault(task, {}).update(found)
        metrics.setdefault(task, set()).add(chosen)
        config = configs.get(leaf, configs.get(task, {}))
        settings = {f"{leaf} {key}": json.dumps(config[key], sort_keys=True) for key in _PROTOCOL if config.get(key) is not None}
        protocols.setdefault(task, {}).update(settings | {f"{leaf} version": str(results.get("versions", {}).get(leaf))})
        if protocol := config.get("metadata", {}).get("evalkit_protocol"):
            protocols[task]["protocol"] = f"{task}@{protocol}"
    for task, several in metrics.items():
        if len(several) > 1:
            raise EvalkitError(f"{file}: the tasks of {task} have different metrics ({', '.join(sorted(several))}); pass --metric")
    tasks = {t: TaskAnswers(t, protocols[t], next(iter(metrics[t])), "micro", answers[t]) for t in answers}
    return RunAnswers(path, "lm-eval", str(results.get("model_name") or "unnamed"), tasks)


def _leaf(samples: Path) -> str:
    return samples.stem.removeprefix("samples_").rpartition("_")[0]


def _read_leaf(file: Path, leaf: str, metric: str | None, cluster: str | None, better: Mapping[str, Any]) -> tuple[str, dict[str, Answer]]:
    """(metric, answers by document) of one samples file; lm-eval writes a row a document and filter."""
    chosen: tuple[str, str] | None = None
    offered: dict[str, None] = {}
    found: dict[str, list[Answer]] = {}
    for row in read_rows(file):
        try:
            here = [(name, row["filter"]) for name in row["metrics"]]
            offered |= {",".join(pair): None for pair in here}
            if chosen is None:
                chosen = next((pair for pair in here if _fits(row, pair, metric)), None)
            if chosen in here:
                found.setdefault(f"{leaf}/{row['doc_id']}", []).append(_answer(row, leaf, chosen[0], cluster, better))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise EvalkitError(f"{file}: document {row.get('doc_id')} can't be read ({error!r}); was it made by lm-eval 0.4?") from None
    if chosen is None and metric is not None:
        raise unknown(f"metric of {leaf}", metric, offered)
    if chosen is None:
        raise EvalkitError(f"{file} holds no metric that is a number a document, nor BLEU")
    return ",".join(chosen), {doc: merge(repeats) for doc, repeats in found.items()}


def _fits(row: Mapping[str, Any], pair: tuple[str, str], metric: str | None) -> bool:
    if metric is not None:
        return metric in (pair[0], ",".join(pair))
    try:
        score_of(row[pair[0]], pair[0])
    except TypeError:
        return False
    return True


def _answer(row: Mapping[str, Any], leaf: str, metric: str, cluster: str | None, better: Mapping[str, Any]) -> Answer:
    score = score_of(row[metric], metric)
    if better.get(metric) is False and isinstance(score, float):
        score = -score  # a perplexity: higher is better from here on
    arguments = row["arguments"]
    asked: list[Any] = [list(a.values()) for a in arguments.values()] if isinstance(arguments, dict) else arguments
    responses = [response for request in row["resps"] for response in request]
    said: tuple[str | float, ...]
    if isinstance(responses[0], list):  # log-probabilities, as text; the likeliest continuation stands for the answer
        said = tuple(float(logprob) for logprob, _ in responses)
        shown = str(asked[max(range(len(said)), key=lambda i: said[i])][1])
    else:
        said = tuple(map(str, responses))
        shown = " ".join(map(str, row["filtered_resps"]))
    return Answer(
        f"{row['doc_hash']}{row['target_hash']}",
        sha256_json(arguments),
        leaf,
        cluster_of(row, cluster),
        score,
        str(asked[0][0])[-TAIL:],
        str(row["target"]),
        shown,
        said,
    )
