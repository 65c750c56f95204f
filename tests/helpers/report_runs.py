"""Full runs' entries of run.json and bench records, as the report reads them, without a model."""

from typing import Any


def entry(value: float, half: float = 0.008, **changes: Any) -> dict[str, Any]:
    """A full MMLU run's entry of run.json."""
    return {
        "protocol": "qwen",
        "headline": "acc",
        "metrics": {"acc": {"value": value, "stderr": half / 1.96, "ci95": [value - half, value + half], "n": 14_042}},
        "groups": {},
        "n": 14_042,
        "n_total": 14_042,
        "counts": {"extraction_failed": 0, "truncated": 0, "boundary_merged": 0, "stopped_by_length": 0, "unscored": 0},
        "data": {"source": "dir", "revision": None, "sha256": "ab" * 32},
        "seconds": 12.0,
        "tokens": {"computed": 300, "shared": 100},
    } | changes


def run(spec: str, **tasks: dict[str, Any]) -> dict[str, Any]:
    model = {"spec": spec, "fingerprint": "sha256:" + "cd" * 32, "engine": "native", "dtype": "bfloat16"}
    return {"schema": 1, "name": "r", "status": "complete", "started": "2026-01-01T00:00:00+00:00", "model": model, "tasks": tasks}


def bench(spec: str, rate: float, **changes: Any) -> dict[str, Any]:
    """A bench record at half of its roofline, on the blog's device."""
    return {
        "schema": 1,
        "kind": "bench",
        "model": {"spec": spec, "fingerprint": "sha256:" + "ef" * 32},
        "engine": "native",
        "device": "NVIDIA A100-SXM4-80GB",
        "dtype": "bfloat16",
        "prompt_tokens": 1000,
        "output_tokens": 1000,
        "num_requests": 1000,
        "seconds": 1000 / rate,
        "requests_per_second": rate,
        "total_tokens_per_second": 2000 * rate,
        "output_tokens_per_second": 1000 * rate,
        "roofline": {"floor_seconds": 500 / rate, "share": 0.5, "bandwidth_gb_s": 1900.0, "gflop_s": 280_000.0},
        "environment": {},
    } | changes
