"""The rows of a data file of one's own, each with its place. Whatever is not fully understood is refused, with row and column."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.tasks import DataError, decoded, json_values, read_bytes

LONGEST_CELL = 131_072  # characters: more is a damaged file (an open quote), and no prompt
LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Row:
    """`place`: "capitals.csv row 3", counted as a spreadsheet does, with the line where that is another."""

    place: str
    cells: Mapping[str, Any]

    def wrong(self, column: str, what: str) -> DataError:
        """The error that names file, row and column."""
        return DataError(f"{self.place}, column {column!r}: {what}")

    def text(self, column: str) -> str:
        """The cell, a text that is not empty. Raises DataError."""
        value = self.cells[column]
        if not isinstance(value, str):
            raise self.wrong(column, f"{shown(value)} is no text; write one, in quotes")
        if not value.strip():
            raise self.wrong(column, "the cell is empty; fill it in, or leave the row out")
        return value


@dataclass(frozen=True, slots=True)
class DataFile:
    """`of_texts`: every cell is a text, as in CSV."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    of_texts: bool

    def require(self, *columns: str) -> None:
        """Raises DataError for a column that is not there."""
        for column in columns:
            if column not in self.columns:
                raise DataError(f"{self.name} has no column {column!r}; it has {', '.join(map(repr, self.columns))}")


def read(path: Path) -> DataFile:
    """Raises DataError for a file that is empty or damaged, and EvalkitError for one that can't be read."""
    name = str(path)
    text = decoded(read_bytes(path), name).replace("\r\n", "\n")
    if not text.strip():
        raise DataError(f"{name} is empty; give it columns and rows")
    is_csv = path.suffix == ".csv"
    columns, rows = _csv(text, name) if is_csv else _json(text, name)
    if not rows:
        raise DataError(f"{name} has a header and no rows")
    for row in rows:
        for column, value in row.cells.items():
            if isinstance(value, str) and len(value) > LONGEST_CELL:
                raise row.wrong(column, f"{len(value):,} characters, more than {LONGEST_CELL:,}; is a quote left open?")
            if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
                raise row.wrong(column, "half of a surrogate pair, which is no character; write the whole one")
            if isinstance(value, str) and "\0" in value:
                raise row.wrong(column, "a NUL character, which is no text; save the file as UTF-8")
            if isinstance(value, float) and not math.isfinite(value):
                raise row.wrong(column, f"{value} is no number; write one, or leave the row out")
    return DataFile(name, columns, rows, is_csv)


def shown(value: Any) -> str:
    """A value on one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 2]}.."


def _csv(text: str, name: str) -> tuple[tuple[str, ...], list[Row]]:
    records = _records(text, name)
    place, header = next(records)
    columns = tuple(header)
    if odd := [column for column in columns if not column.strip() or column != column.strip()]:
        raise DataError(f"{place}: the header has the column {odd[0]!r}; name every column, without blanks around the name")
    if len(columns) == 1 and (other := [sign for sign in ";\t|" if sign in columns[0]]):
        raise DataError(f"{place}: the cells are separated by {other[0]!r}; save the file with commas")
    _require_distinct(columns, place)
    rows = []
    for place, cells in records:
        if len(cells) != len(columns):
            raise DataError(f"{place}: {len(cells)} cells, and the header has {len(columns)} ({', '.join(columns)}); is a quote missing?")
        rows.append(Row(place, dict(zip(columns, cells, strict=True))))
    return columns, rows


def _records(text: str, name: str) -> Iterator[tuple[str, list[str]]]:
    """Every record with its place; lines without anything on them are none. Raises DataError."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number, line = 0, 1
    while True:
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{name} line {line}: not valid CSV ({error})") from None
        if record is None:
            return
        if record:
            number += 1
            yield f"{name} row {number}" + (f" (line {line})" if line != number else ""), record
        line = reader.line_num + 1


def _json(text: str, name: str) -> tuple[tuple[str, ...], list[Row]]:
    columns: tuple[str, ...] = ()
    rows = []
    for place, value in json_values(text, name):
        if not isinstance(value, dict):
            raise DataError(f"{place}: {shown(value)} is no object; write a row as {{column: value, ..}}")
        columns = columns or tuple(value)
        if lacking := [column for column in columns if column not in value]:
            raise DataError(f"{place}: no column {lacking[0]!r}, which the first row has; give all rows the same columns")
        if extra := [column for column in value if column not in columns]:
            raise DataError(f"{place}: a column {extra[0]!r}, which the first row has not; give all rows the same columns")
        rows.append(Row(place, value))
    return columns, rows


def _require_distinct(columns: Sequence[str], place: str) -> None:
    if twice := [column for i, column in enumerate(columns) if column in columns[:i]]:
        raise DataError(f"{place}: the header has the column {twice[0]!r} twice; give one of them another name")
