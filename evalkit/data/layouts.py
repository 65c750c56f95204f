"""Rows from the text of a table, each with its place ("FILE line 3"). All cells of a text layout are strings."""

import csv
import io
from collections.abc import Callable, Collection, Iterator
from typing import Any

from evalkit.codec import json_values
from evalkit.data.rows import Placed, shown
from evalkit.errors import DataError

Columns = Collection[str]


def lines(text: str, name: str, columns: Columns) -> Placed:
    """One column; each line is a row."""
    (column,) = columns
    return ((f"{name} line {number}", {column: line}) for number, line in enumerate(text.removesuffix("\n").split("\n"), 1))


def tsv(text: str, name: str, columns: Columns) -> Placed:
    """Cells between tabs, where a quote is an ordinary character. Raises DataError, with the line."""
    return _cells(text, name, columns, 1)


def headed_tsv(text: str, name: str, columns: Columns) -> Placed:
    """As `tsv`, after a header line with the columns' names."""
    header, _, body = text.partition("\n")
    return _cells(body, name, _header(header.removesuffix("\r").split("\t"), name, columns), 2)


def quoted_tsv(text: str, name: str, columns: Columns) -> Placed:
    """As `headed_tsv`, with CSV's quotes."""
    rows = _csv(text, name, delimiter="\t", skipinitialspace=True)
    _, header = next(rows, (name, []))
    found = _header(header, name, columns)
    for where, row in rows:
        yield _row(row, found, where)


def headless_csv(text: str, name: str, columns: Columns) -> Placed:
    """CSV without a header line. Every cell is text: "None", "NA" and "null" are answers, not missing values."""
    for where, row in _csv(text, name, strict=True):
        yield _row(row, columns, where)


def json_rows(text: str, name: str, columns: Columns) -> Placed:
    """Objects with at least `columns`: one a line, or a JSON list of them. Raises DataError, with the line or the item's number."""
    return (_object(row, columns, where) for where, row in json_values(text, name))


LAYOUTS: dict[str, Callable[[str, str, Columns], Placed]] = {
    "lines": lines,
    "tsv": tsv,
    "tsv-header": headed_tsv,
    "tsv-quoted": quoted_tsv,
    "json": json_rows,
}


def _csv(text: str, name: str, delimiter: str = ",", **dialect: bool) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **dialect)  # type: ignore[arg-type]
    try:
        for row in reader:
            yield f"{name} line {reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{name} line {reader.line_num}: not valid CSV ({error})") from None


def _object(row: object, columns: Columns, where: str) -> tuple[str, dict[str, Any]]:
    expected = f"expected an object{' with ' if columns else ''}{', '.join(columns)}"
    if not isinstance(row, dict):
        raise DataError(f"{where}: {shown(row)} is no object; {expected}")
    if missing := [column for column in columns if column not in row]:
        raise DataError(f"{where}: no {', '.join(missing)}; {expected}")
    return where, row


def _cells(text: str, name: str, columns: Columns, first: int) -> Placed:
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=first):
        yield _row(line.removesuffix("\r").split("\t"), columns, f"{name} line {number}")


def _row(cells: list[str], columns: Columns, where: str) -> tuple[str, dict[str, Any]]:
    if len(cells) != len(columns):
        raise DataError(f"{where}: {len(cells)} columns, expected {len(columns)} ({', '.join(columns)})")
    return where, dict(zip(columns, cells, strict=True))


def _header(found: list[str], name: str, columns: Columns) -> tuple[str, ...]:
    if missing := [column for column in columns if column not in found]:
        raise DataError(f"{name} line 1: no column {missing[0]!r} in the header ({', '.join(map(shown, found))})")
    return tuple(found)
