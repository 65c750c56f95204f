"""What a run leaves on disk: run.json (schema in results/README.md) and samples/TASK.jsonl. Every report reads these and nothing else."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from evalkit.api import Doc, Generated, Loglikelihoods, Request, Response, Scored, Task, sha256_json
from evalkit.errors import EvalkitError, RunIncomplete
from evalkit.stats import average

SCHEMA = 1


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
        "metrics": _metrics(task, by_group),
        "groups": {name: _metrics(task, members) for name, members in sorted(categories.items())},
        "n": len(samples),
        "n_total": n_total,
        "counts": {
            "extraction_failed": sum(s.scored.extraction_failed for s in samples),
            "truncated": sum(s.truncated for s in samples),
            "boundary_merged": sum(s.merged for s in samples),
            "stopped_by_length": sum(s.cut_off for s in samples),
            "unscored": 0,
        },
    }
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


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Write a text file whole or not at all. Raises RunIncomplete where the disk is full or the folder not writable."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "w", encoding="utf-8", errors="surrogatepass") as f:
            f.writelines(lines)
            f.flush()
            os.fsync(f.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunIncomplete(
            f"cannot write {path}: {error.strerror}; the answers are kept in the journal, run the same command again"
        ) from None


def write_run(folder: Path, record: dict[str, Any], samples: dict[str, Sequence[Sample]]) -> None:
    """Replace run.json and samples/ with these."""
    shutil.rmtree(folder / "samples", ignore_errors=True)
    for name, task_samples in samples.items():
        lines = (json.dumps(s.as_json(), ensure_ascii=False) + "\n" for s in task_samples)
        write_atomically(folder / "samples" / f"{name}.jsonl", lines)
    write_atomically(folder / "run.json", [json.dumps(record, indent=2, ensure_ascii=False) + "\n"])


def read_run(path: str) -> dict[str, Any]:
    """run.json of a run's folder (or the file itself). Raises EvalkitError where it is missing, damaged or of another schema."""
    file = Path(path) / "run.json" if Path(path).is_dir() else Path(path)
    try:
        record = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise EvalkitError(f"{path} is not a run: cannot read {file} ({error})") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise EvalkitError(f"{file} is not a run.json of schema {SCHEMA}, which this evalkit reads")
    return record


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git() -> str | None:
    """The commit of the checkout that evalkit runs from, "+dirty" where it has changes; None for an installed package."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+dirty" if dirty else "")
