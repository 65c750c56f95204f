"""Run folders with the scores that a test wants: run.json and samples/ as evalkit writes them, without a model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evalkit.stats.estimate import mean


def flips(n: int, gained: int, lost: int) -> tuple[list[float], list[float]]:
    """n right-or-wrong scores of two runs with these flips."""
    return [0.0] * gained + [1.0] * (n - gained), [1.0] * gained + [0.0] * lost + [1.0] * (n - gained - lost)


def fake_run(folder: Path, model: str = "m", **tasks: Sequence[float]) -> Path:
    """A run of tasks with these scores, one a document; every answer has its own text, so no two runs say the same."""
    record: dict[str, Any] = {"schema": 1, "name": folder.name, "status": "complete", "command": "evalkit run", "tasks": {}}
    record["model"] = {"spec": model, "fingerprint": f"sha256:{model}", "engine": "native", "dtype": "float32"}
    for name, scores in tasks.items():
        record["tasks"][name] = {
            "protocol": "qwen",
            "protocol_sha256": "0" * 64,
            "headline": "acc",
            "averaging": "micro",
            "metrics": {"acc": mean(scores).as_json()},
            "groups": {},
            "n": len(scores),
            "n_total": len(scores),
            "counts": {},
            "data": {"source": "dir", "revision": None, "sha256": "0" * 64},
        }
        write_samples(folder, name, [sample(i, score, f"{model} {i} {score}") for i, score in enumerate(scores)])
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def sample(i: int, score: Any, text: str, **changes: Any) -> dict[str, Any]:
    row = {
        "doc_id": f"d{i}",
        "group": f"subject{i % 3}",
        "doc_hash": f"h{i}",
        "prompt_hash": f"p{i}",
        "doc": {"question": f"q{i}", "passage": f"passage{i // 4}"},
        "target": "A",
        "extracted": "A" if score else "B",
        "extraction_failed": False,
        "metrics": {"acc": score},
        "requests": [{"context": f"question {i}\nAnswer:"}],
        "responses": [{"text": text, "finish_reason": "stop"}],
    }
    return row | changes


def write_samples(folder: Path, task: str, rows: Sequence[dict[str, Any]]) -> None:
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    (folder / "samples" / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_run(folder: Path, task: str, **changes: Any) -> None:
    """Change a task's entry of run.json."""
    record = json.loads((folder / "run.json").read_text())
    record["tasks"][task] |= changes
    (folder / "run.json").write_text(json.dumps(record))
