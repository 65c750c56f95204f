"""Run folders with the scores that a test wants: run.json and samples/ as evalkit writes them, without a model."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from report_runs import entry, run

from evalkit.record.write import write_record
from evalkit.stats.estimate import mean
from evalkit.tasks import Generate


def flips(n: int, gained: int, lost: int) -> tuple[list[float], list[float]]:
    """n right-or-wrong scores of two runs with these flips."""
    return [0.0] * gained + [1.0] * (n - gained), [1.0] * gained + [0.0] * lost + [1.0] * (n - gained - lost)


def fake_run(folder: Path, model: str = "m", **tasks: Sequence[float]) -> Path:
    """A run of tasks with these scores, one a document; every answer has its own text, so no two runs say the same."""
    entries = {}
    for name, scores in tasks.items():
        entries[name] = entry(0.0, metrics={"acc": mean(scores)}, n=len(scores), n_total=len(scores))
        write_samples(folder, name, [sample(i, score, f"{model} {i} {score}") for i, score in enumerate(scores)])
    record = run(model, folder.name, **entries)
    write_record(folder, replace(record, model=replace(record.model, fingerprint=f"sha256:{model}")))
    return folder


def sample(i: int, score: Any, text: str, **changes: Any) -> dict[str, Any]:
    """A row of samples/TASK.jsonl."""
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
        "requests": [asked(f"question {i}\nAnswer:")],
        "responses": [{"text": text, "finish_reason": "stop", "num_tokens": 1, "truncated": 0}],
    }
    return row | changes


def asked(context: str) -> dict[str, Any]:
    """A request as samples have it."""
    return asdict(Generate(context, (), 1))


def write_samples(folder: Path, task: str, rows: Sequence[dict[str, Any]]) -> None:
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    (folder / "samples" / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_run(folder: Path, task: str, **changes: Any) -> None:
    """Change a task's entry of run.json."""
    record = json.loads((folder / "run.json").read_text())
    record["tasks"][task] |= changes
    (folder / "run.json").write_text(json.dumps(record))
