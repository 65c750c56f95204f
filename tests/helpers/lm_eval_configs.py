"""Generated task configurations for lm-eval, and a process that runs them by lm-eval itself with a model that needs no weights.

A configuration is one task or a group of tasks: of every output type, with random metrics, aggregations, filters, repeats, shots,
limits, nested groups of either weighting, and documents that lack a metric.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIZES = (7, 12, 31)  # documents of a task, so that leaves of a group have different sizes
FILTERS: dict[str, list[dict[str, Any]]] = {
    "plain": [{"function": "take_first"}],
    "upper": [{"function": "uppercase"}, {"function": "take_first"}],
    "word": [{"function": "regex", "regex_pattern": "is (\\w+)"}, {"function": "take_first"}],
    "vote": [{"function": "majority_vote"}, {"function": "take_first"}],
    "first-two": [{"function": "take_first_k", "k": 2}, {"function": "majority_vote"}, {"function": "take_first"}],
}
METRICS = {
    "multiple_choice": ("acc", "acc_norm", "acc_bytes", "f1", "mcc", "brier_score", "exact_match", "acc_mutual_info"),
    "generate_until": ("exact_match", "bleu", "chrf", "ter"),
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
}
# what process_results of utils.py gives: the metrics of a document, and how they are averaged
CUSTOM = {
    "some_lack_it": ("always", "sometimes"),
    "needle": ("4096", "8192"),
    "empty": ("always",),
    "rate": ("wer",),
    "nan": ("always", "nan"),
}
UTILS = """
import math

from datasets import Dataset

def documents(n, **metadata):
    splits = {"test": f"question {{}} of {n}", "validation": "shot {}"}
    return {name: Dataset.from_list([{"i": i, "q": text.format(i)} for i in range(n)]) for name, text in splits.items()}

def some_lack_it(doc, results):
    return {"always": float(doc["i"] % 3 == 0), **({"sometimes": 1.0} if doc["i"] % 2 else {})}

def needle(doc, results):
    return {"4096": float(doc["i"] % 3 > 0) if doc["i"] % 2 else -1.0, "8192": -1.0 if doc["i"] % 2 else 0.5}

def empty(doc, results):
    return {} if doc["i"] == 3 else {"always": float(len(results[0]) % 2)}

def rate(doc, results):
    return {"wer": len(results[0]) / 40}

def nan(doc, results):
    return {"always": float(len(results[0]) % 2), "nan": math.nan if doc["i"] == 2 else 1.0}

def not_minus_one(values):
    kept = [value for value in values if value != -1]
    return sum(kept) / len(kept) if kept else -1
"""
RUN = """
import hashlib, json, sys
import lm_eval, lm_eval.evaluator
from lm_eval.api.model import LM
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

class Dummy(LM):
    def __init__(self, seed):
        super().__init__()
        self.seed = seed
    def draw(self, *args):
        return int(hashlib.sha256(repr((self.seed, args)).encode()).hexdigest()[:8], 16) / 2**32
    def loglikelihood(self, requests, **_):
        return [(-5 * self.draw(*r.args) - 0.1, self.draw("greedy", *r.args) > 0.5) for r in requests]
    def loglikelihood_rolling(self, requests, **_):
        return [-len(r.args[0]) * (0.5 + self.draw(*r.args)) for r in requests]
    def generate_until(self, requests, **_):
        draws = [self.draw(i % 3, r.args[0]) for i, r in enumerate(requests)]
        return ["no such thing" if d < 0.4 else f"it is word{r.doc['i']} that you said" for d, r in zip(draws, requests)]

lm_eval.evaluator.add_env_info = lambda results: None  # seconds of subprocesses, for a description of the machine
out, configs = sys.argv[1], json.loads(sys.argv[2])
manager = TaskManager(include_path=out, include_defaults=False)
for config in configs:
    for seed in ("base", "cand"):
        tracker = EvaluationTracker(output_path=f"{out}/{config['name']}/{seed}")
        results = lm_eval.simple_evaluate(
            model=Dummy(seed), tasks=[config["name"]], task_manager=manager, evaluation_tracker=tracker, bootstrap_iters=0,
            limit=config["limit"], num_fewshot=None,
        )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for task, rows in samples.items():
            tracker.save_results_samples(task_name=task, samples=rows)
"""


class _Function(str):
    """`!function utils.NAME` in YAML."""


def _task(rng: random.Random, name: str, kind: str | None = None) -> dict[str, Any]:
    kind = kind or rng.choice([*METRICS, *CUSTOM])
    config: dict[str, Any] = {
        "task": name,
        "custom_dataset": _Function("utils.documents"),
        "dataset_kwargs": {"n": rng.choice(SIZES)},
        "test_split": "test",
        "output_type": kind if kind in METRICS else "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "it is word{{i}} that you said",
        "metadata": {"version": 1.0},
    }
    if rng.random() < 0.3 and kind != "loglikelihood_rolling":
        config |= {"fewshot_split": "validation", "num_fewshot": 2}
    if kind == "multiple_choice":
        config |= {"doc_to_choice": ["one", "two", "a third"], "doc_to_target": "{{i % 3}}"}
    if config["output_type"] == "generate_until":
        config |= {"generation_kwargs": {"until": ["\n"], "do_sample": False}}
        if rng.random() < 0.7:
            chosen = rng.sample([*FILTERS], rng.randint(1, 3))
            config["filter_list"] = [{"name": each, "filter": FILTERS[each]} for each in chosen]
            if {"vote", "first-two"} & {*chosen} or rng.random() < 0.3:
                config["repeats"] = 3
    if kind in METRICS:
        chosen = rng.sample(METRICS[kind], rng.randint(1, min(3, len(METRICS[kind]))))
        config["metric_list"] = [{"metric": each} for each in chosen]
        if "f1" in chosen:  # of two classes only
            config |= {"doc_to_choice": ["one", "another"], "doc_to_target": "{{i % 2}}"}
        if "exact_match" in chosen and rng.random() < 0.3:
            config["metric_list"][chosen.index("exact_match")] |= {"aggregation": rng.choice(["median", "nanmean", "mean"])}
    else:
        aggregation = {"needle": _Function("utils.not_minus_one"), "nan": "nanmean"}.get(kind, "mean")
        config["process_results"] = _Function(f"utils.{kind}")
        config["metric_list"] = [{"metric": each, "aggregation": aggregation, "higher_is_better": kind != "rate"} for each in CUSTOM[kind]]
    return config


def make(folder: Path, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Write `count` configurations as YAML files; returns their names and limits."""
    rng = random.Random(seed)
    (folder / "utils.py").write_text(UTILS)
    found = []
    for number in range(count):
        name = f"c{number:02d}"
        if number % 2:
            _write(folder, name, _task(rng, name))
        else:
            _group(rng, folder, name)
        found.append({"name": name, "limit": rng.choice([None, None, 5])})
    return found


def _group(rng: random.Random, folder: Path, name: str) -> None:
    """A group of tasks of one kind or of several, one of which may be a group itself."""
    shared = rng.choice(["multiple_choice", "generate_until", "rate", "some_lack_it", None])
    leaves = [f"{name}_{letter}" for letter in "xyz"[: rng.randint(1, 3)]]
    tasks = {leaf: _task(rng, leaf, shared) for leaf in leaves}
    for leaf, task in tasks.items():
        _write(folder, leaf, task)
    metrics = sorted(
        {each["metric"] for task in tasks.values() for each in task["metric_list"]} - {"f1", "mcc", "brier_score", "ter", "chrf"}
    )
    metrics = [metric for metric in metrics if metric not in ("bleu", "perplexity")] or ["acc"]
    children: list[Any] = list(leaves)
    if len(leaves) == 3 and rng.random() < 0.5:
        _write(folder, f"{name}_sub", _group_config(rng, f"{name}_sub", leaves[1:], metrics))
        children = [leaves[0], f"{name}_sub"]
    _write(folder, name, _group_config(rng, name, children, metrics))


def _group_config(rng: random.Random, name: str, children: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    config: dict[str, Any] = {"group": name, "task": list(children), "metadata": {"version": 1.0}}
    if rng.random() < 0.85:
        weighting = rng.random() < 0.5
        config["aggregate_metric_list"] = [{"metric": each, "weight_by_size": weighting} for each in metrics]
    return config


def _write(folder: Path, name: str, config: dict[str, Any]) -> None:
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    Dumper.add_representer(_Function, lambda dumper, value: dumper.represent_scalar("!function", str(value)))
    (folder / f"{name}.yaml").write_text(yaml.dump(config, Dumper=Dumper, sort_keys=False))


def evaluate(folder: Path, configs: Sequence[dict[str, Any]]) -> None:
    """Run the configurations by lm-eval: NAME/base/ and NAME/cand/ below the folder, as lm-eval writes them."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(folder), json.dumps(list(configs))]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3_000:]
