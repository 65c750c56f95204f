"""The inputs of a report: a published table, runs, and bench records. Their order on the command line does not matter."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.bench.record import BenchRecord, is_bench, read_bench
from evalkit.errors import EvalkitError
from evalkit.exchange.lm_eval_read import find_results, read_results
from evalkit.exchange.lm_eval_run import run_of
from evalkit.record.read import is_ours, read_run
from evalkit.record.schema import Run
from evalkit.report.published import PublishedTable, read_table


@dataclass(frozen=True, slots=True)
class Inputs:
    """The published table, runs and bench records, each in a fixed order; `skipped`: the paths that were passed over, and why."""

    table: PublishedTable
    runs: Sequence[Run]
    benches: Sequence[BenchRecord] = ()
    skipped: Sequence[str] = ()


def read_inputs(published: str, paths: Sequence[str]) -> Inputs:
    """Each path is a run's folder or run.json, lm-eval's results, or a bench record or its folder; an incomplete run is skipped.

    Raises EvalkitError for anything else, and where nothing is left.
    """
    table = read_table(published)
    runs: list[Run] = []
    benches: list[BenchRecord] = []
    skipped: list[str] = []
    for path in dict.fromkeys(paths):
        if (file := _bench_file(Path(path))) is not None:
            benches.append(read_bench(file))
        elif _is_begun(Path(path)):
            skipped.append(f"{path} is skipped: it has no run.json yet; run the same command again to finish it")
        elif not is_ours(path):
            runs.append(run_of(read_results(find_results(Path(path)))))
        elif (run := read_run(path)).is_complete:
            runs.append(run)
        else:
            skipped.append(f"{path} is skipped: it is incomplete; run `{run.command}` again to finish it")
    if skipped and not runs and not benches:
        raise EvalkitError(f"nothing to report: {skipped[0]}")
    runs.sort(key=lambda run: (run.model.spec, run.name, run.model.fingerprint))
    benches.sort(key=lambda bench: (bench.model.spec, bench.how, bench.num_requests))
    return Inputs(table, runs, benches, skipped)


def _is_begun(path: Path) -> bool:
    """A run's folder that has answers, and no figures yet."""
    return (path / "journal.sqlite").exists() and not (path / "run.json").exists()


def _bench_file(path: Path) -> Path | None:
    """The bench record at a path; None if it is anything else."""
    if path.is_dir():
        file = path / "bench.json"
        return file if file.is_file() and not (path / "run.json").exists() else None
    return path if is_bench(path) else None
