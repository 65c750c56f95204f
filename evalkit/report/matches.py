"""Which published figures are of a run's model and task, in all tables or in one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from evalkit.report.published import Column, PublishedFigure, read_table, table_names


@dataclass(frozen=True, slots=True)
class Match:
    """A published figure for a model and task, and its table."""

    table: str
    column: Column
    figure: PublishedFigure

    @property
    def printed(self) -> str:
        """The figure as its table prints it."""
        return self.figure.printed

    @property
    def share(self) -> float:
        """The figure in run.json's unit."""
        return self.figure.value / self.column.scale

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit, in run.json's unit."""
        return self.figure.rounding / self.column.scale

    def __str__(self) -> str:
        under = f" under {self.figure.protocol}" if self.figure.protocol else ""
        return f"{self.printed} in {self.table}{under}"


def published_for(spec: str, task: str, protocol: str, table: str | None = None) -> tuple[Match, ...]:
    """The published figures of a model and task (or task:category) in all tables, or in the one that is named.

    Those that were made under the run's protocol, or all if there are none.
    """
    found = [
        Match(each.name, column, cell)
        for each in map(read_table, table_names() if table is None else [table])
        for _, column, cell in each.cells()
        if column.whole == task and cell.checkpoint and cell.checkpoint.is_named_by(spec)
    ]
    return tuple(match for match in found if match.figure.protocol == protocol) or tuple(found)


def column_for(task: str, matches: Sequence[Match] = ()) -> Column | None:
    """How a task's figures are printed: as in the tables of `matches`, or else in any table. None if no table has the task.

    If tables differ, the one with the largest unit and the fewest decimals, whatever the tables' names. Another model's table says
    nothing of which metric is meant: it is then the headline.
    """
    columns = [match.column for match in matches] or [
        replace(column, metric="") for name in table_names() for column in read_table(name).columns if column.whole == task
    ]
    return min(columns, key=lambda column: (-column.scale, column.decimals), default=None)


def agreed(matches: Sequence[Match]) -> Match | None:
    """The most exact of the figures if all are equal within their rounding; None if they differ, or there are none."""
    if not matches:
        return None
    best = min(matches, key=lambda match: match.rounding)
    return best if all(abs(match.share - best.share) <= match.rounding + 1e-9 for match in matches) else None


def in_tables(matches: Sequence[Match]) -> str:
    """ "published as 62.5 in qwen1.5-moe under qwen"."""
    return f"published as {' and as '.join(map(str, matches))}"
