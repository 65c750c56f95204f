"""Findings: why a measured figure differs from the published one, a tested cause each. A TOML file beside the runs that tested them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evalkit.codec import TomlFile, decode_toml, key
from evalkit.errors import EvalkitError, unknown
from evalkit.record.schema import Run, task_of
from evalkit.report.other_mean import other_mean
from evalkit.report.published import Column, PublishedTable, read_table
from evalkit.report.verdict import Measured, measured_figure, scale_of, scaled

MEANS = (" as macro mean", " as micro mean")
FIX = "correct the findings; results/README.md describes them"


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause, tested on one cell of a published table: a table's name, a `model` of it and a column's key, `task`.

    `runs` are names of the report's runs that differ in the cause alone, the one that has it first; RUN/TASK@PROTOCOL where a run
    holds the task under several protocols, and with " as macro mean" or " as micro mean" after it the same answers averaged that way.
    Their figures are the effect; `conclusion` is what follows from it.
    """

    table: str
    model: str
    task: str
    cause: str
    runs: tuple[str, ...]
    conclusion: str


@dataclass(frozen=True, slots=True)
class FindingsFile:
    """The file's one key."""

    findings: tuple[Finding, ...] = field(metadata=key("finding"))


@dataclass(frozen=True, slots=True)
class CheckedFinding:
    """A finding with its `effect`: what each of its runs measured."""

    finding: Finding
    effect: str

    @property
    def run_names(self) -> set[str]:
        return {name.removesuffix(_mean_in(name)).partition("/")[0] for name in self.finding.runs}

    def is_of(self, table: str, model: str, task: str) -> bool:
        """Whether it is about this cell."""
        return (self.finding.table, self.finding.model, self.finding.task) == (table, model, task)


def read_findings(path: Path, tables: Sequence[PublishedTable], runs: Sequence[Run]) -> list[CheckedFinding]:
    """The findings of a file, of a report on these tables and runs. Those of other tables are checked all the same.

    Raises EvalkitError for an unknown table, model, column or run, and for a missing text.
    """
    file = TomlFile.read(path)
    found = []
    for i, finding in enumerate(decode_toml(FindingsFile, file, FIX).findings):
        try:
            column = _column(finding, {table.name: table for table in tables})
            found.append(CheckedFinding(finding, _effect(finding, column, runs)))
        except EvalkitError as error:
            raise EvalkitError(f"{file.place(('finding', i))}: {error}") from None
    return found


def _column(finding: Finding, tables: Mapping[str, PublishedTable]) -> Column:
    """The column of the finding's cell, its texts checked on the way."""
    if not (finding.cause.strip() and finding.conclusion.strip()):
        raise EvalkitError("cause or conclusion is empty; say what was tested and what follows from it")
    if len(set(finding.runs)) < max(2, len(finding.runs)):
        raise EvalkitError("runs must name at least two runs, each once: one with the cause, then those without it")
    table = tables.get(finding.table) or read_table(finding.table)
    rows = {row.model: row for row in table.rows}
    if finding.model not in rows:
        raise unknown("model", finding.model, list(rows))
    if finding.task not in rows[finding.model].cells:
        raise unknown(f"cell of {finding.model}", finding.task, list(rows[finding.model].cells))
    return table.by_key[finding.task]


def _effect(finding: Finding, column: Column, runs: Sequence[Run]) -> str:
    """The figure of each run, and its difference from the first."""
    figures = [_measured(name, finding, column, runs) for name in finding.runs]
    texts: list[str] = []
    for name, figure in zip(finding.runs, figures, strict=True):
        moved = f"{figure.value - figures[0].value:+.{column.decimals}f}"
        change = f", {moved if moved.strip('+-0.') else 'no change'}" if texts else ""
        low, high = (f"{end:.{column.decimals}f}" for end in (figure.low, figure.high))
        texts.append(f"{figure.value:.{column.decimals}f} ({low} to {high}) in {name}{change}")
    return "; ".join(texts)


def _mean_in(name: str) -> str:
    """What a run's name in a finding ends with where another mean is asked for, or ""."""
    return next((mean for mean in MEANS if name.endswith(mean)), "")


def _measured(name: str, finding: Finding, column: Column, runs: Sequence[Run]) -> Measured:
    mean = _mean_in(name)
    run_name, _, wanted = name.removesuffix(mean).partition("/")
    named = [run for run in runs if run.name == run_name]
    if len(named) != 1:
        known = ", ".join(sorted(run.name for run in runs)) or "none"
        raise EvalkitError(f"run {run_name} is {'twice' if named else 'not'} among the report's runs: {known}; give each run once")
    entries = {f"{column.task}@{entry.protocol}": entry for key, entry in named[0].tasks.items() if task_of(key) == column.task}
    if wanted and wanted not in entries:
        raise unknown(f"task of run {run_name}", wanted, list(entries))
    if not wanted and len(entries) != 1:
        held = f"holds {', '.join(entries)}: name one, as in {run_name}/{next(iter(entries))}" if entries else f"has no {column.task}"
        raise EvalkitError(f"run {run_name} {held}")
    entry = entries[wanted] if wanted else next(iter(entries.values()))
    if mean:
        other = other_mean(entry)
        if other is None or mean != f" as {other}":
            raise EvalkitError(f"run {run_name} has no{mean.removeprefix(' as')} beside its headline; leave{mean} out")
        return scaled(other.figure, scale_of(entry, column, entry.headline))
    figure = measured_figure(entry, column)
    if figure is None:
        raise EvalkitError(f"run {run_name} has no figure for {finding.task}; judge or finish it first")
    return figure
