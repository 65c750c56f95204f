"""What a run leaves on disk: run.json (schema in results/README.md) and samples/TASK.jsonl. Every report reads these and nothing else."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from evalkit.files import kept, stage, sync
from evalkit.hashing import sha256_json
from evalkit.record.read import SCHEMA
from evalkit.stats.estimate import average
from evalkit.tasks import Doc, Generated, Loglikelihoods, Request, Response, Scored, SuiteTask, Task


@dataclass(frozen=True, slots=True)
class Sample:
    """One document of a run: what was asked, what came back, what it scored."""

    doc: Doc
    requests: Sequence[Request]
    responses: Sequence[Response]
    scored: Scored

    @property
    def truncated(self) -> bool:
        return any(r.truncated for r in self.responses)

    @property
    def merged(self) -> bool:
        return any(isinstance(r, Loglikelihoods) and r.merged for r in self.responses)

    @property
    def cut_off(self) -> bool:
        return any(isinstance(r, Generated) and r.finish_reason == "length" for r in self.responses)

    def as_json(self) -> dict[str, Any]:
        return {
            "doc_id": self.doc.id,
            "group": self.doc.group,
            **({"cluster": self.doc.cluster} if self.doc.cluster else {}),
            "doc_hash": sha256_json(dict(self.doc.fields)),
            "prompt_hash": sha256_json([asdict(r) for r in self.requests]),
            "doc": dict(self.doc.fields),
            "target": self.scored.target,
            "extracted": self.scored.extracted,
            "extraction_failed": self.scored.extraction_failed,
            "metrics": dict(self.scored.metrics),
            "requests": [asdict(r) for r in self.requests],
            "responses": [asdict(r) for r in self.responses],
        }


def begin(name: str, model: dict[str, Any], limit: int | None, seed: int, sandbox: str | None) -> dict[str, Any]:
    """run.json's content before the first figure."""
    return {
        "schema": SCHEMA,
        "name": name,
        "status": "incomplete",
        "command": " ".join(["evalkit", *sys.argv[1:]]),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "seconds": 0.0,
        "limit": limit,
        "seed": seed,
        "model": model,
        "tasks": {},
        "environment": environment() | ({"sandbox": sandbox} if sandbox else {}),
    }


def task_entry(task: Task, samples: Sequence[Sample], n_total: int) -> dict[str, Any]:
    """run.json's entry of one task: every printed figure is computed here."""
    by_group: dict[str, list[Sample]] = {}
    for sample in samples:
        by_group.setdefault(sample.doc.group, []).append(sample)
    categories: dict[str, dict[str, list[Sample]]] = {}
    for group, members in by_group.items():
        if category := task.category(group):
            categories.setdefault(category, {})[group] = members
    entry: dict[str, Any] = {
        "protocol": task.protocol.name,
        "protocol_sha256": sha256_json(asdict(task.protocol)),
        "headline": task.protocol.headline,
        "averaging": task.protocol.averaging,
        "metrics": {},
        "groups": {},
        "n": len(samples),
        "n_total": n_total,
        "counts": {
            "extraction_failed": sum(s.scored.extraction_failed for s in samples),
            "truncated": sum(s.truncated for s in samples),
            "boundary_merged": sum(s.merged for s in samples),
            "stopped_by_length": sum(s.cut_off for s in samples),
            "unscored": sum(not s.scored.metrics for s in samples),
        },
    }
    if isinstance(task, SuiteTask):
        from evalkit.stats.suite import figures  # scipy and sacrebleu: seconds, for suites alone

        return entry | figures(task.cells(), task.incomplete, samples)
    entry["metrics"] = _metrics(task, by_group)
    entry["groups"] = {name: _metrics(task, members) for name, members in sorted(categories.items())}
    if categories:
        entry["subjects"] = {group: _metrics(task, {group: members}) for group, members in sorted(by_group.items())}
    return entry


def _metrics(task: Task, by_group: dict[str, list[Sample]]) -> dict[str, Any]:
    first = next(iter(by_group.values()))[0]
    return {
        metric: average(
            {g: [s.scored.metrics[metric] for s in members] for g, members in by_group.items()}, task.protocol.averaging
        ).as_json()
        for metric in first.scored.metrics
    }


def environment() -> dict[str, Any]:
    """Where the run happened: versions, processor, GPU, the checkout's commit."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git": _git(),
    }


def write_run(folder: Path, record: dict[str, Any], samples: dict[str, Sequence[Sample]]) -> None:
    """Replace run.json and samples/ with these, or leave both as they are. Raises RunIncomplete where they can't be written.

    A run killed in between has no run.json rather than one that is not its samples'.
    """
    contents: dict[Path, Iterable[str]] = {
        folder / "samples" / f"{name}.jsonl": (json.dumps(s.as_json(), ensure_ascii=False) + "\n" for s in task_samples)
        for name, task_samples in samples.items()
    }
    run_json = folder / "run.json"
    contents[run_json] = [json.dumps(record, indent=2, ensure_ascii=False) + "\n"]
    staged: dict[Path, Path] = {}
    try:
        for path, lines in contents.items():
            with kept(path):
                staged[path] = stage(path, lines)
    except BaseException:
        for partial in staged.values():
            partial.unlink(missing_ok=True)
        raise
    with kept(run_json):
        run_json.unlink(missing_ok=True)
        for path, partial in staged.items():
            if path != run_json:
                partial.replace(path)
        for stale in set((folder / "samples").glob("*.jsonl*")) - staged.keys():
            stale.unlink()
        sync(folder / "samples")
        staged[run_json].replace(run_json)
        sync(folder)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git() -> str | None:
    """The commit of the checkout that evalkit runs from, "+dirty" where it has changes; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+dirty" if dirty else "")
