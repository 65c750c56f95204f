"""What a report is made from: a published table, runs, and bench records. Their order on the command line does not matter."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.record.read import read_run
from evalkit.report.published import PublishedTable, read_table

BENCH_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Inputs:
    """The published table, run.json records and bench.json records, each in a fixed order."""

    table: PublishedTable
    runs: Sequence[Mapping[str, Any]]
    benches: Sequence[Mapping[str, Any]] = ()


def read_inputs(published: str, paths: Sequence[str]) -> Inputs:
    """Each path is a run's folder or run.json, or a bench record or its folder. Raises EvalkitError for anything else."""
    runs: list[dict[str, Any]] = []
    benches: list[dict[str, Any]] = []
    for path in dict.fromkeys(paths):
        bench = _bench_file(Path(path))
        (runs if bench is None else benches).append(read_run(path) if bench is None else read_bench(bench))
    runs.sort(key=lambda run: (run["model"]["spec"], run["name"], run["model"]["fingerprint"]))
    benches.sort(key=lambda bench: (bench["model"]["spec"], how(bench), bench["num_requests"]))
    return Inputs(read_table(published), runs, benches)


def how(bench: Mapping[str, Any]) -> str:
    """Engine, dtype and device of a bench record, as far as they are known (a server tells no dtype)."""
    return ", ".join(str(bench[key]) for key in ("engine", "dtype", "device") if bench[key])


def _bench_file(path: Path) -> Path | None:
    """The bench record that a path names; None where it is not one."""
    file = path / "bench.json" if path.is_dir() else path
    if not file.is_file() or (path.is_dir() and (path / "run.json").exists()):
        return None
    if path.is_dir():
        return file
    try:
        return file if json.loads(file.read_text("utf-8")).get("kind") == "bench" else None
    except (OSError, ValueError, AttributeError):
        return None  # read_run says what is wrong with it


def read_bench(file: Path) -> dict[str, Any]:
    """A bench record. Raises EvalkitError where it is damaged, of another schema, or lacks a figure that the report prints."""
    try:
        record = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise EvalkitError(f"cannot read {file}: {error}") from None
    if not isinstance(record, dict) or record.get("kind") != "bench" or record.get("schema") != BENCH_SCHEMA:
        raise EvalkitError(f"{file} is not a bench record of schema {BENCH_SCHEMA}, which this evalkit reads")
    needed = ("model", "engine", "device", "dtype", "prompt_tokens", "output_tokens", "num_requests", "seconds")
    figures = ("requests_per_second", "total_tokens_per_second", "output_tokens_per_second")
    if lacking := [key for key in (*needed, *figures) if key not in record]:
        raise EvalkitError(f"{file} lacks {lacking[0]}; measure again with evalkit bench")
    return record
