"""Results folders in lm-eval's layout with the scores that a test wants, without lm-eval."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TIME = "2026-03-01T10-00-00.123456"


def row(i: int, task: str = "sums", filter_name: str = "none", **metrics: Any) -> dict[str, Any]:
    """A row of samples_TASK_TIME.jsonl, as lm-eval 0.4.13 writes it."""
    prompt = f"{task} {i}?"
    return {
        "doc_id": i,
        "doc": {"question": prompt, "answer": f"yes {i}"},
        "target": f"yes {i}",
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["\n"]}}},
        "resps": [[f"{metrics} {i}"]],
        "filtered_resps": [f"{metrics} {i}"],
        "filter": filter_name,
        "metrics": list(metrics),
        "doc_hash": _sha256(prompt),
        "prompt_hash": _sha256(prompt),
        "target_hash": _sha256(f"yes {i}"),
        **metrics,
    }


def rows(task: str, scores: Sequence[float], metric: str = "acc") -> list[dict[str, Any]]:
    return [row(i, task, **{metric: score}) for i, score in enumerate(scores)]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def write(
    folder: Path,
    tasks: Mapping[str, Sequence[Mapping[str, Any]]],
    figures: Mapping[str, Mapping[str, Any]] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    time: str = TIME,
    **changes: Any,
) -> Path:
    """A folder of rows by task; figures that are not given are the rows' means. `changes` are to results_TIME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for task, its in tasks.items():
        (folder / f"samples_{task}_{time}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in its))
        pairs = dict.fromkeys((name, each["filter"]) for each in its for name in each["metrics"])
        found[task] = {"alias": task}
        for name, chosen in pairs:
            values = [each[name] for each in its if each["filter"] == chosen and isinstance(each.get(name), int | float)]
            found[task][f"{name},{chosen}"] = mean(values) if values else 0.0
    results = {
        "results": {**found, **(figures or {})},
        "group_subtasks": {**{task: [] for task in tasks}, **(groups or {})},
        "configs": {task: {"task": task, "output_type": "generate_until", "num_fewshot": 0, "repeats": 1} for task in tasks},
        "versions": dict.fromkeys(tasks, 1.0),
        "higher_is_better": {},
        "n-samples": {task: {"original": n, "effective": n} for task, its in tasks.items() if (n := len({r["doc_id"] for r in its}))},
        "model_name": folder.name,
        "date": 1772359200.0,
    }
    (folder / f"results_{time}.json").write_text(json.dumps(results | changes))
    return folder


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
