"""Rows as they are read: each with the place where it stands, and checked against its table."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from evalkit.errors import DataError
from evalkit.hashing import canonical_json
from evalkit.tasks import Table

LONGEST = 80  # characters of a value shown in a message
Placed = Iterator[tuple[str, dict[str, Any]]]  # ("FILE line 3", the row)


def checked(table: Table, rows: Iterable[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The table's columns of every row. Raises DataError for a value that does not fit, with its file, line and column."""
    fields = table.columns if isinstance(table.columns, Mapping) else {}
    found: list[dict[str, Any]] = []
    places: dict[str, str] = {}
    for where, whole in rows:
        row = {column: whole[column] for column in table.columns}
        for column, field in fields.items():
            if not field.fits(row[column]):
                raise DataError(f"{where}: {column} is {shown(row[column])}, expected {field.wanted}")
        for rule in table.rules:
            if not rule.holds(row):
                raise DataError(f"{where}: {rule.column} is {shown(row[rule.column])}, expected {rule.wanted}")
        if table.key:
            name = canonical_json([row[column] for column in table.key])
            if name in places:
                values = ", ".join(f"{column} is {shown(row[column])}" for column in table.key)
                raise DataError(f"{where}: {values}, as in {places[name]}; expected another for each row")
            places[name] = where
        found.append(row)
    return found


def shown(value: Any) -> str:
    """A value on one line, cut where it is long. A text is cut at its front, since what is read of an answer stands at its end."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    if len(text) <= LONGEST:
        return text
    return f"..{text[2 - LONGEST :]}" if isinstance(value, str) else f"{text[: LONGEST - 2]}.."
