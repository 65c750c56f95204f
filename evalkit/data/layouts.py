"""Rows from the text of a table, for layouts that the file name does not tell. All cells of a text layout are strings."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

from evalkit.errors import DataError

Rows = Iterator[dict[str, Any]]


def lines(text: str, name: str, columns: tuple[str, ...]) -> Rows:
    """One column; each line is a row."""
    return ({columns[0]: line} for line in text.removesuffix("\n").split("\n"))


def tsv(text: str, name: str, columns: tuple[str, ...]) -> Rows:
    """Cells between tabs, where a quote is an ordinary character. Raises DataError, with the line."""
    return _cells(text, name, columns, 1)


def headed_tsv(text: str, name: str, columns: tuple[str, ...]) -> Rows:
    """As `tsv`, after a header line with the columns' names."""
    header, _, body = text.partition("\n")
    return _cells(body, name, _header(header.removesuffix("\r").split("\t"), name, columns), 2)


def quoted_tsv(text: str, name: str, columns: tuple[str, ...]) -> Rows:
    """As `headed_tsv`, with CSV's quotes."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", skipinitialspace=True)
    found = _header(next(reader, []), name, columns)
    for row in reader:
        yield _row(row, found, f"{name} line {reader.line_num}")


def json_list(text: str, name: str, columns: tuple[str, ...]) -> Rows:
    """The objects of a JSON list, each with at least `columns`. Raises DataError, with the object's number."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not valid JSON ({error})") from None
    if not isinstance(rows, list):
        raise DataError(f"{name}: expected a list of objects, found {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        missing = [column for column in columns if column not in row] if isinstance(row, dict) else list(columns)
        if missing:
            raise DataError(f"{name} item {number}: no {', '.join(missing)}; expected an object with {', '.join(columns)}")
        yield row


LAYOUTS: dict[str, Callable[[str, str, tuple[str, ...]], Rows]] = {
    "lines": lines,
    "tsv": tsv,
    "tsv-header": headed_tsv,
    "tsv-quoted": quoted_tsv,
    "json": json_list,
}


def _cells(text: str, name: str, columns: tuple[str, ...], first: int) -> Rows:
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=first):
        yield _row(line.removesuffix("\r").split("\t"), columns, f"{name} line {number}")


def _row(cells: list[str], columns: tuple[str, ...], where: str) -> dict[str, Any]:
    if len(cells) != len(columns):
        raise DataError(f"{where}: {len(cells)} columns, expected {len(columns)} ({', '.join(columns)})")
    return dict(zip(columns, cells, strict=True))


def _header(found: list[str], name: str, columns: tuple[str, ...]) -> tuple[str, ...]:
    if missing := [column for column in columns if column not in found]:
        raise DataError(f"{name} line 1: no column {missing[0]!r} in the header ({', '.join(found)})")
    return tuple(found)
