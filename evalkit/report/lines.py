"""The lines of a report: every cell of a published table, once per run that measured it, then what else the runs measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evalkit.codec import encode
from evalkit.record.schema import Run, TaskEntry, task_of
from evalkit.report.matches import column_for
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
    def title(self) -> str:
        """The column's title, or the task."""
        return self.column.title if self.column else self.task

    @property
    def published(self) -> str:
        return self.cell.printed if self.cell else "-"

    @property
    def figure(self) -> str:
        """ "51.2"; "-" for none."""
        return self.decimal(self.measured.value) if self.measured else "-"

    @property
    def interval(self) -> str:
        """ " (43.6 to 58.8)"; "" for none."""
        return f" ({self.decimal(self.measured.low)} to {self.decimal(self.measured.high)})" if self.measured else ""

    @property
    def figure_and_interval(self) -> str:
        """ "51.2 (43.6 to 58.8)"; "-" for none."""
        return self.figure + self.interval

    @property
    def difference(self) -> str:
        """Measured minus published; "-" where there are not both."""
        if self.measured is None or self.cell is None:
            return "-"
        shown = self.decimal(self.measured.value - self.cell.value, "+")
        return shown if shown.strip("+-0.") else shown[1:]  # a zero has no sign

    @property
    def protocol(self) -> str:
        """The protocol of the measured figure, or else that of the published one; "" where that is unpublished."""
        return self.entry.protocol if self.entry else self.cell.protocol if self.cell else ""

    @property
    def how(self) -> str:
        """What a measured figure depends on; "" for none."""
        if self.entry is None or self.run is None:
            return ""
        fingerprint = self.run.model.fingerprint.removeprefix("sha256:")[:8]
        judge = f"judge {self.entry.judge.model}, " if self.entry.judge else ""
        return (
            f"{under(self.task, self.protocol)}, {judge}n = {self.entry.size}, data {self.entry.data}, fingerprint {fingerprint}, "
            f"run {self.run.name}"
        )

    def as_json(self) -> Mapping[str, Any]:
        """The line with unrounded figures, in the published figure's unit."""
        found, said = self.measured, self.verdict
        return {
            "model": self.model,
            "task": self.task,
            "protocol": self.protocol or None,
            "published": self.cell.value if self.cell else None,
            "measured": found.value if found else None,
            "ci95": [found.low, found.high] if found else None,
            "n": found.n if found else None,
            "verdict": said.word,
            "reason": said.reason,
            "run": self.run.name if self.run else None,
            "fingerprint": self.run.model.fingerprint if self.run else None,
            "data": encode(self.entry.data) if self.entry else None,
        }

    def decimal(self, value: float, sign: str = "") -> str:
        """A measured figure with its column's decimals, or one."""
        return f"{value:{sign}.{self.column.decimals if self.column else 1}f}"


def under(task: str, protocol: str) -> str:
    """The task and its protocol, as `--tasks` takes it. `task` may be a column's key."""
    return f"{task_of(task)}@{protocol}" if protocol else "unpublished"


def short(model: str) -> str:
    """A model's name without its owner or folder, for a plot's label."""
    return model.rstrip("/").rpartition("/")[2] or model


def lines(table: PublishedTable, runs: Sequence[Run]) -> list[Line]:
    """Every cell of the table in order, once per run that measured it; then figures of other models, and of tasks that have no column."""
    found = []
    for row in table.rows:
        for column in table.columns:
            cell = row.cells.get(column.key)
            matching = list(_measurements(table, runs, column, row))
            found += [Line(row.model, column.key, cell, column, run, entry) for run, entry in matching]
            if not matching and cell:
                found.append(Line(row.model, column.key, cell, column, None, None))
    for run in runs:
        row_of = next((row for row in table.rows if row.is_model(run.model.spec)), None)
        for key, entry in run.tasks.items():
            task = task_of(key)
            columns: Sequence[Column | None] = table.columns_of(task, entry.protocol)
            if row_of is None or not columns:
                model = row_of.model if row_of else run.model.spec
                found += [Line(model, c.key if c else task, None, c, run, entry) for c in columns or [None]]
    return found


def _measurements(table: PublishedTable, runs: Sequence[Run], column: Column, row: Row) -> Iterator[tuple[Run, TaskEntry]]:
    for run in runs:
        if row.is_model(run.model.spec):
            yield from ((run, entry) for key, entry in run.tasks.items() if column in table.columns_of(task_of(key), entry.protocol))


def lines_of_runs(runs: Sequence[Run]) -> list[Line]:
    """Every figure of the runs, without a published table. Models with two figures for the same thing go by their runs' names."""
    held = [(run, task_of(key), entry) for run in runs for key, entry in run.tasks.items()]
    found = [Line(run.model.spec, task, None, column_for(task), run, entry) for run, task, entry in held]
    places = [(line.model, line.task, line.protocol) for line in found]
    twice = {place[0] for place in places if places.count(place) > 1}
    return [replace(line, model=f"{line.model} ({line.run.name})") if line.model in twice and line.run else line for line in found]


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
