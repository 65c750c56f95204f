"""Full runs, entries and bench records as the report takes them, without a model."""

from dataclasses import asdict, replace
from typing import Any

from evalkit.bench.record import BenchRecord, Roofline
from evalkit.hashing import sha256_json
from evalkit.record.schema import Counts, DataInfo, Environment, JudgeCounts, JudgeEntry, ModelInfo, Run, TaskEntry, Tokens, task_of
from evalkit.stats.estimate import Estimate
from evalkit.tasks.registry import task_classes

NO_PROBLEMS = Counts(extraction_failed=0, truncated=0, boundary_merged=0, stopped_by_length=0, unscored=0)
NO_HASH = "0" * 64
SOMEWHERE = Environment(python="3", torch="2", platform="p", cpu="c", cores=2, gpu=None, git=None)


def figure(value: float, half: float, n: int = 14_042) -> Estimate:
    return Estimate(value, half / 1.96, (value - half, value + half), n)


def entry(value: float, half: float = 0.008, **changes: Any) -> TaskEntry:
    """A full MMLU run's entry."""
    full = TaskEntry(
        protocol="qwen",
        protocol_sha256=NO_HASH,
        headline="acc",
        averaging="micro",
        metrics={"acc": figure(value, half)},
        groups={},
        n=14_042,
        n_total=14_042,
        counts=NO_PROBLEMS,
        data=DataInfo(source="dir", sha256="ab" * 32),
        seconds=12.0,
        tokens=Tokens(300, 100),
    )
    return replace(full, **changes)


def counted(**counts: int) -> Counts:
    """These counts of documents, and 0 for the others."""
    return replace(NO_PROBLEMS, **counts)


def judge(model: str, judgments: int = 0, failed: int = 0) -> JudgeEntry:
    """The judge of an entry, allowed half of its judgments to fail."""
    rated = judgments - failed
    counts = JudgeCounts(judgments=judgments, failed=failed, published=rated, strict=rated, readers_differ=0, outside_scale=0)
    return JudgeEntry(model=model, rating="published", max_failed=0.5, counts=counts)


SAMPLE = DataInfo(source="sample", sha256="0" * 64)


def as_installed(task: str, made: TaskEntry) -> TaskEntry:
    """The entry with the hash of the installed protocol, if it has none of its own."""
    known = task_classes().get(task_of(task))
    protocol = known.protocols.get(made.protocol) if known else None
    return replace(made, protocol_sha256=sha256_json(asdict(protocol))) if protocol and made.protocol_sha256 == NO_HASH else made


def run(spec: str, name: str = "r", status: str = "complete", started: str = "2026-01-01T00:00:00+00:00", **tasks: TaskEntry) -> Run:
    return Run(
        name=name,
        status=status,  # type: ignore[arg-type]
        command="evalkit run",
        started=started,
        seconds=1.0,
        limit=None,
        seed=0,
        model=ModelInfo(spec=spec, fingerprint="sha256:" + "cd" * 32, engine="native", dtype="bfloat16"),
        tasks={task: as_installed(task, each) for task, each in tasks.items()},
        environment=SOMEWHERE,
    )


def bench(spec: str, rate: float, **changes: Any) -> BenchRecord:
    """A bench record at half of its roofline, on the blog's device."""
    full = BenchRecord(
        model=ModelInfo(spec=spec, fingerprint="sha256:" + "ef" * 32, engine="native"),
        engine="native",
        device="NVIDIA A100-SXM4-80GB",
        dtype="bfloat16",
        prompt_tokens=1000,
        output_tokens=1000,
        num_requests=1000,
        seed=0,
        short_answers=0,
        seconds=1000 / rate,
        requests_per_second=rate,
        total_tokens_per_second=2000 * rate,
        output_tokens_per_second=1000 * rate,
        roofline=Roofline(floor_seconds=500 / rate, share=0.5, bandwidth_gb_s=1900.0, gflop_s=280_000.0),
        environment=SOMEWHERE,
    )
    return replace(full, **changes)
