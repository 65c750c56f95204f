"""The inputs of a report: a published table, runs, and bench records. Their order on the command line does not matter."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.bench.record import BenchRecord, is_bench, read_bench
from evalkit.record.read import read_run
from evalkit.record.schema import Run
from evalkit.report.published import PublishedTable, read_table


@dataclass(frozen=True, slots=True)
class Inputs:
    """The published table, runs and bench records, each in a fixed order."""

    table: PublishedTable
    runs: Sequence[Run]
    benches: Sequence[BenchRecord] = ()


def read_inputs(published: str, paths: Sequence[str]) -> Inputs:
    """Each path is a run's folder or run.json, or a bench record or its folder. Raises EvalkitError for anything else."""
    runs: list[Run] = []
    benches: list[BenchRecord] = []
    for path in dict.fromkeys(paths):
        if (file := _bench_file(Path(path))) is not None:
            benches.append(read_bench(file))
        else:
            runs.append(read_run(path))
    runs.sort(key=lambda run: (run.model.spec, run.name, run.model.fingerprint))
    benches.sort(key=lambda bench: (bench.model.spec, bench.how, bench.num_requests))
    return Inputs(read_table(published), runs, benches)


def _bench_file(path: Path) -> Path | None:
    """The bench record at a path; None if it is a run, or something that `read_run` will refuse."""
    if path.is_dir():
        file = path / "bench.json"
        return file if file.is_file() and not (path / "run.json").exists() else None
    return path if is_bench(path) else None
