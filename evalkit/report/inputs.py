"""The inputs of a report: a published table, runs, bench records and findings. Their order on the command line does not matter."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.bench.record import BenchRecord, is_bench, read_bench
from evalkit.errors import EvalkitError
from evalkit.exchange.formats import read_other
from evalkit.exchange.lm_eval_read import find_results, read_results
from evalkit.exchange.lm_eval_run import run_of
from evalkit.record.read import is_ours, read_run, why_incomplete
from evalkit.record.schema import Run, task_of
from evalkit.report.findings import CheckedFinding, read_findings
from evalkit.report.matches import published_for
from evalkit.report.published import PublishedTable, read_table, table_names


@dataclass(frozen=True, slots=True)
class Inputs:
    """What one page is made of, each in a fixed order. `table` is None for a page of runs alone, without published figures.

    `skipped`: the paths that were passed over, and why.
    """

    table: PublishedTable | None
    runs: Sequence[Run]
    benches: Sequence[BenchRecord] = ()
    findings: Sequence[CheckedFinding] = ()
    skipped: Sequence[str] = ()


FIRST = "qwen1.5-moe"  # the table of a report that is of no table's model, and of bench records


def read_inputs(published: Sequence[str] | None, paths: Sequence[str]) -> list[Inputs]:
    """The inputs of a page for each published table, or of one page of the runs alone where there is none in the list. None: those
    that have a figure for a run's model and task, or else the FIRST.

    Each path is a run's folder or run.json, results of another program, a bench record or its folder, or a file of findings; an
    incomplete run is skipped. A run whose model, or a finding about it, only another of the tables has is left to that table's page.
    Raises EvalkitError for anything else, and where nothing is left.
    """
    tables = [read_table(name) for name in dict.fromkeys(published or ())]
    names = [table.name for table in tables]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise EvalkitError(f"two published tables are named {twice}; rename one of the files")
    runs: list[Run] = []
    benches: list[BenchRecord] = []
    skipped: list[str] = []
    written: list[Path] = []
    for path in dict.fromkeys(paths):
        if path.endswith(".toml"):
            written.append(Path(path))
        elif (file := _bench_file(Path(path))) is not None:
            benches.append(read_bench(file))
        elif _is_begun(Path(path)):
            skipped.append(f"{path} is skipped: it has no run.json yet; run the same command again to finish it")
        elif not is_ours(path):
            other = read_other(path)
            runs.append(run_of(read_results(find_results(Path(path)))) if other is None else other.run)
        elif (run := read_run(path)).is_complete:
            runs.append(run)
        else:
            skipped.append(f"{path} is skipped: it is {why_incomplete(run)}")
    if skipped and not runs and not benches:
        raise EvalkitError(f"nothing to report: {skipped[0]}")
    if published is None:
        tables = _tables_of(runs, benches)
    if not tables and not runs:
        raise EvalkitError("nothing to report: without a published table a report needs runs; give a run's folder")
    runs.sort(key=lambda run: (run.model.spec, run.name, run.model.fingerprint))
    benches.sort(key=lambda bench: (bench.model.spec, bench.how, bench.num_requests))
    if benches and not any(table.throughput for table in tables):
        what = ", ".join(bench.model.spec for bench in benches)
        skipped.append(f"the bench records of {what} are left out: no published table of this report has a throughput")
    if written and not tables:
        skipped.append(f"{', '.join(map(str, written))} is skipped: findings are about published figures")
        written = []
    findings = [found for path in sorted(written) for found in read_findings(path, tables, runs)]
    if not tables:
        return [Inputs(None, runs, benches, (), skipped)]
    return [Inputs(table, _runs_of(table, tables, runs, findings), benches, findings, skipped) for table in tables]


def _tables_of(runs: Sequence[Run], benches: Sequence[BenchRecord]) -> list[PublishedTable]:
    """The tables that have a figure for what a run measured; the FIRST, too, where bench records need a table with a throughput."""
    measured = {(run.model.spec, task_of(key), entry.protocol) for run in runs for key, entry in run.tasks.items()}
    found = [read_table(name) for name in table_names() if any(published_for(*each, name) for each in measured)]
    if not found or (benches and not any(table.throughput for table in found)):
        found.insert(0, read_table(FIRST))
    return found


def _runs_of(table: PublishedTable, tables: Sequence[PublishedTable], runs: Sequence[Run], findings: Sequence[CheckedFinding]) -> list[Run]:
    """The runs of the table's models or findings, and those that are of no table's."""

    def has(each: PublishedTable, run: Run) -> bool:
        named = any(found.finding.table == each.name and run.name in found.run_names for found in findings)
        return named or any(row.is_model(run.model.spec) for row in each.rows)

    return [run for run in runs if has(table, run) or not any(has(each, run) for each in tables)]


def _is_begun(path: Path) -> bool:
    """A run's folder that has answers, and no figures yet."""
    return (path / "journal.sqlite").exists() and not (path / "run.json").exists()


def _bench_file(path: Path) -> Path | None:
    """The bench record at a path; None if it is anything else."""
    if path.is_dir():
        file = path / "bench.json"
        return file if file.is_file() and not (path / "run.json").exists() else None
    return path if is_bench(path) else None
