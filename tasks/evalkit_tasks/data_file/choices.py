"""Questions with choices: how a row writes them, and which is right. A file whose answers can be read in two ways is refused."""

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.tasks import DataError, parse_json
from evalkit_tasks.data_file.table import DataFile, Row, shown

LETTERS = string.ascii_uppercase
MOST = len(LETTERS)
Reader = Callable[[Any, Sequence[str]], int | None]  # an answer and the choices -> which of them is right


@dataclass(frozen=True, slots=True)
class Question:
    """A row's choices, at least two different ones, and the index of the right one."""

    choices: tuple[str, ...]
    right: int


def _letter(answer: Any, choices: Sequence[str]) -> int | None:
    found = LETTERS.find(answer) if isinstance(answer, str) and len(answer) == 1 else -1
    return found if 0 <= found < len(choices) else None


def _index(answer: Any, choices: Sequence[str]) -> int | None:
    found = _whole_number(answer)
    return found if found is not None and 0 <= found < len(choices) else None


def _number(answer: Any, choices: Sequence[str]) -> int | None:
    found = _whole_number(answer)
    return found - 1 if found is not None and 1 <= found <= len(choices) else None


def _whole_number(answer: Any) -> int | None:
    """A number, or one or two digits."""
    if isinstance(answer, str):
        return int(answer) if answer.isascii() and answer.isdigit() and len(answer) <= 2 else None
    return answer if type(answer) is int else None


def _text(answer: Any, choices: Sequence[str]) -> int | None:
    return choices.index(answer) if answer in choices else None


READERS: Mapping[str, Reader] = {"letter": _letter, "index": _index, "number": _number, "text": _text}
WORDS = {"letter": "a letter", "index": "an index from 0", "number": "a number from 1", "text": "a choice's text"}


def questions(file: DataFile, columns: str | Sequence[str], answer: str, separator: str, answer_is: str) -> list[Question]:
    """The questions of all rows. `columns`: of a list of choices, or of one choice each. Raises DataError, with row and column."""
    listed = [_choices(row, columns, separator, file.of_texts) for row in file.rows]
    for row in file.rows:
        if isinstance(row.cells[answer], bool) or not isinstance(row.cells[answer], str | int):
            raise row.wrong(answer, f"{shown(row.cells[answer])} is no answer; write {', '.join(WORDS.values())}")
        if isinstance(row.cells[answer], str):
            row.text(answer)
    if len(kinds := {type(row.cells[answer]) for row in file.rows}) > 1:
        first = file.rows[0]
        odd = next(row for row in file.rows if type(row.cells[answer]) is not type(first.cells[answer]))
        raise odd.wrong(answer, f"{shown(odd.cells[answer])} is of another type than {shown(first.cells[answer])} before it; write one")
    assert len(kinds) == 1
    readers = {answer_is: READERS[answer_is]} if answer_is else READERS
    read = {
        name: [reader(row.cells[answer], each) for row, each in zip(file.rows, listed, strict=True)] for name, reader in readers.items()
    }
    fitting = {name: found for name, found in read.items() if None not in found}
    if not fitting:
        raise _none_fits(file, answer, listed, read)
    distinct = {tuple(found): name for name, found in fitting.items()}
    if len(distinct) > 1:
        raise _ambiguous(file, answer, fitting)
    (rights,) = distinct
    return [Question(each, right) for each, right in zip(listed, rights, strict=True) if right is not None]


def _choices(row: Row, columns: str | Sequence[str], separator: str, of_texts: bool) -> tuple[str, ...]:
    if not isinstance(columns, str):
        found, where = [row.text(column) for column in columns], columns[-1]
    else:
        found, where = _listed(row, columns, separator, of_texts), columns
    if not 2 <= len(found) <= MOST:
        raise row.wrong(where, f"{len(found)} choices, and a question has 2 to {MOST}; separate them by {separator!r} or give a JSON list")
    if twice := [choice for i, choice in enumerate(found) if choice in found[:i]]:
        raise row.wrong(where, f"the choice {shown(twice[0])} is there twice; which of them is chosen could not be told")
    return tuple(found)


def _listed(row: Row, column: str, separator: str, of_texts: bool) -> list[str]:
    """The choices of one cell: a JSON list, or texts between separators."""
    value = row.cells[column]
    if of_texts and value.lstrip().startswith("["):
        try:
            value = parse_json(value)
        except ValueError as error:
            raise row.wrong(column, f"{shown(value)} begins as a JSON list and is none ({error})") from None
    if isinstance(value, str):
        value = [each.strip() for each in row.text(column).split(separator)]
    if not isinstance(value, list):
        raise row.wrong(column, f"{shown(value)} is no list of choices; write a JSON list, or texts separated by {separator!r}")
    for each in value:
        if not isinstance(each, str) or not each.strip():
            raise row.wrong(column, f"the choice {shown(each)} is no text, or an empty one; write each as a text")
    return value


def _none_fits(file: DataFile, answer: str, listed: Sequence[Sequence[str]], read: Mapping[str, Sequence[int | None]]) -> DataError:
    """Why no one way of writing answers fits all rows."""
    for i, row in enumerate(file.rows):
        if all(found[i] is None for found in read.values()):
            wanted = " or ".join(WORDS[name] for name in read)
            options = ", ".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, listed[i], strict=False))
            return row.wrong(answer, f"{shown(row.cells[answer])} is none of the choices ({shown(options)[1:-1]}); write {wanted}")
    ways = [next(name for name, found in read.items() if found[i] is not None) for i in range(len(file.rows))]
    other = next(i for i, way in enumerate(ways) if way != ways[0] and read[ways[0]][i] is None)
    cells = [shown(file.rows[i].cells[answer]) for i in (0, other)]
    return file.rows[other].wrong(
        answer,
        f"{cells[1]} is {WORDS[ways[other]]}, and {cells[0]} in the first row is {WORDS[ways[0]]}; write all answers in one way",
    )


def _ambiguous(file: DataFile, answer: str, fitting: Mapping[str, Sequence[int | None]]) -> DataError:
    (one, first), (other, second) = next(
        (a, b) for i, a in enumerate(fitting.items()) for b in list(fitting.items())[i + 1 :] if list(a[1]) != list(b[1])
    )
    at = next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    row = file.rows[at]
    return row.wrong(
        answer,
        f"{shown(row.cells[answer])} may be {WORDS[one]} or {WORDS[other]}; write letters, "
        f'or say which in a .toml: answer_is = "{one}" or "{other}"',
    )
