"""JSON texts: what they say, or what is wrong with them and where."""

import json
import re
from collections.abc import Iterator
from typing import Any

from evalkit.errors import DataError


class RepeatedKey(ValueError):
    """A JSON object that has a `key` twice: one of the values would be lost, and other programs may read the other one."""

    def __init__(self, key: str):
        super().__init__(f"the key {json.dumps(key)} is there twice")
        self.key = key


def parse_json(text: str) -> Any:
    """What a JSON text says. Raises ValueError where it is not valid or nested too deep, and RepeatedKey."""
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("nested too deep") from None


def json_values(text: str, name: str) -> Iterator[tuple[str, Any]]:
    """The values of a text, each with its place: the items of a list ("NAME item 3"), or a value a line ("NAME line 3").

    Values that are laid out over several lines, as jq and editors write them, are read too. Raises DataError, with the place.
    """
    if text.lstrip().startswith("["):
        yield from ((f"{name} item {number}", item) for number, item in enumerate(_parsed(text, name), start=1))
        return
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if lines and (laid_out := _laid_out(text, lines[0][1], name)):
        yield from laid_out
        return
    for number, line in lines:
        yield f"{name} line {number}", _parsed(line, f"{name} line {number}")


def _parsed(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error})") from None


def _laid_out(text: str, first_line: str, name: str) -> list[tuple[str, Any]]:
    """The values of a text whose first one goes on after its first line; none where it does not, or where the text is not all values."""
    decoder = json.JSONDecoder(object_pairs_hook=_distinct)
    found: list[tuple[str, Any]] = []
    at, number = 0, 1
    try:
        parse_json(first_line)
        return []
    except json.JSONDecodeError:
        pass
    except ValueError:  # a whole value all the same
        return []
    try:
        while begin := _NOT_BLANK.search(text, at):
            number += text.count("\n", at, begin.start())
            value, end = decoder.raw_decode(text, begin.start())
            found.append((f"{name} line {number}", value))
            number, at = number + text.count("\n", begin.start(), end), end
    except (json.JSONDecodeError, RecursionError):
        return []
    except ValueError as error:  # valid JSON with a key twice, or a number of too many digits
        raise DataError(f"{name} line {number}: {error}") from None
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise RepeatedKey(key)
        found[key] = value
    return found


_NOT_BLANK = re.compile(r"\S")
_SURROGATE = re.compile("[\ud800-\udfff]")


def is_text(value: Any) -> bool:
    """Is it a str that UTF-8 can hold? JSON can write half of a surrogate pair, which is no character and which no tokenizer takes."""
    return isinstance(value, str) and not _SURROGATE.search(value)
