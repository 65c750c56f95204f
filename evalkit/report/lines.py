"""The lines of a report: every cell of a published table, once per run that measured it, then the figures of other models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evalkit.record.schema import Run, TaskEntry, task_of
from evalkit.report.published import Column, PublishedFigure, PublishedTable, Row
from evalkit.report.verdict import WORDS, Measured, Verdict, measured_figure, verdict


@dataclass(frozen=True, slots=True)
class Line:
    """One figure: published, measured, and the verdict. `task` ends with a category after a colon if the column is one."""

    model: str
    task: str
    cell: PublishedFigure | None
    column: Column | None
    run: Run | None
    entry: TaskEntry | None

    @property
    def verdict(self) -> Verdict:
        return verdict(self.cell, self.column, self.task, self.entry, self.run.model if self.run else None)

    @property
    def measured(self) -> Measured | None:
        return measured_figure(self.entry, self.column)

    @property
    def comparable(self) -> bool:
        """Whether the measured figure is the benchmark's."""
        return self.measured is not None and self.verdict.word != "not comparable"

    @property
    def published(self) -> str:
        return self.cell.printed if self.cell else "-"

    def decimal(self, value: float, sign: str = "") -> str:
        """A measured figure with its column's decimals, or one."""
        return f"{value:{sign}.{self.column.decimals if self.column else 1}f}"


def lines(table: PublishedTable, runs: Sequence[Run]) -> list[Line]:
    """Every cell of the table in order, once per run that measured it; then figures of other models."""
    found = []
    for row in table.rows:
        for column in table.columns:
            cell = row.cells.get(column.key)
            matching = list(_measurements(table, runs, column, row))
            found += [Line(row.model, column.key, cell, column, run, entry) for run, entry in matching]
            if not matching and cell:
                found.append(Line(row.model, column.key, cell, column, None, None))
    others = [run for run in runs if not any(row.is_model(run.model.spec) for row in table.rows)]
    for run in others:
        for key, entry in run.tasks.items():
            task = task_of(key)
            columns: Sequence[Column | None] = table.columns_of(task, entry.protocol) or [None]
            found += [Line(run.model.spec, c.key if c else task, None, c, run, entry) for c in columns]
    return found


def _measurements(table: PublishedTable, runs: Sequence[Run], column: Column, row: Row) -> Iterator[tuple[Run, TaskEntry]]:
    for run in runs:
        if row.is_model(run.model.spec):
            yield from ((run, entry) for key, entry in run.tasks.items() if column in table.columns_of(task_of(key), entry.protocol))


def best(found: Sequence[Line]) -> dict[tuple[str, str], Line]:
    """The figure to show for each (model, task): the one with the most informative verdict, or the first of equals."""
    chosen: dict[tuple[str, str], Line] = {}
    for line in found:
        key = (line.model, line.task)
        if key not in chosen or _rank(line) < _rank(chosen[key]):
            chosen[key] = line
    return chosen


def _rank(line: Line) -> tuple[bool, int]:
    return line.measured is None, list(WORDS).index(line.verdict.word)
