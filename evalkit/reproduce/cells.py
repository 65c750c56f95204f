"""The figures that are to be reproduced, and what is known of each from the table alone."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.errors import EvalkitError
from evalkit.report.published import Column, PublishedFigure, PublishedTable, Row
from evalkit.tasks import JudgedTask
from evalkit.tasks.registry import task_classes


@dataclass(frozen=True, slots=True)
class Cell:
    """One published figure."""

    row: Row
    column: Column
    figure: PublishedFigure

    @property
    def task(self) -> str:
        """The task under the figure's protocol, as --tasks takes it."""
        return f"{self.column.task}@{self.figure.protocol}" if self.figure.protocol else self.column.task

    @property
    def is_judged(self) -> bool:
        known = task_classes().get(self.column.task)
        return known is not None and issubclass(known, JudgedTask)

    @property
    def why_never(self) -> str:
        """Why no machine can measure it as it was made; "" if one can."""
        figure, task = self.figure, self.column.task
        known = task_classes().get(task)
        if known is None:
            return f"evalkit has no task {task}"
        if not figure.protocol:
            return f"how it was made is unpublished ({figure.origin or figure.cited})"
        if self.column.not_here or figure.not_here or figure.protocol not in known.protocols:
            return f"{self.task} is not among evalkit's protocols (evalkit ls protocols)"
        if figure.samples > 1:
            return f"it is the mean of {figure.samples} sampled answers a document; see --repeats and --temperature of evalkit run"
        if figure.checkpoint is None:
            return "the table does not say of which weights it is"
        return ""


def rows_of(table: PublishedTable, models: Sequence[str]) -> list[Row]:
    """The rows of these models, by name, slug or hub id; all rows for none. Raises EvalkitError with the nearest name."""
    return [row for row in table.rows if row in [_row(table, model) for model in models]] if models else [*table.rows]


def _row(table: PublishedTable, model: str) -> Row:
    named = {name.lower(): row for row in table.rows for name in (row.model, row.slug, *row.hubs)}
    if row := named.get(model.lower()):
        return row
    close = difflib.get_close_matches(model.lower(), named, n=1, cutoff=0.5)
    hint = f"did you mean {named[close[0]].slug!r}? " if close else ""
    raise EvalkitError(f"{table.name} has no model {model!r}; {hint}known: {', '.join(row.slug for row in table.rows)}")


def cells_of(table: PublishedTable, rows: Sequence[Row]) -> list[Cell]:
    """The figures of these rows, in the table's order."""
    return [Cell(row, column, figure) for row, column, figure in table.cells() if row in rows]
