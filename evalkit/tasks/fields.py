"""What the columns of a benchmark's tables may hold. Every row is checked against it when it is read (evalkit/data/rows.py)."""

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.codec import is_text


@dataclass(frozen=True, slots=True)
class Field:
    """What one column may hold; `wanted` says it in words, after "expected"."""

    wanted: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """What one column may hold, given the other columns of its row."""

    column: str
    wanted: str
    holds: Callable[[Mapping[str, Any]], bool]


ANY_TEXT = Field("a text", is_text)
TEXT = Field("a text that is not empty", lambda value: is_text(value) and bool(value.strip()))
WHOLE_NUMBER = Field("a whole number", lambda value: type(value) is int)
NOT_EMPTY = Field("a text that is not empty", lambda value: is_text(value) and value != "")
NAME = Field("a whole number or a text", lambda value: type(value) is int or TEXT.fits(value))
OBJECT = Field("an object", lambda value: isinstance(value, dict))


def one_of(*values: str | int) -> Field:
    """One of these values, of the same type: 1 is neither "1" nor true."""
    return Field(f"one of {', '.join(map(repr, values))}", lambda found: any(type(found) is type(v) and found == v for v in values))


def matching(pattern: str, wanted: str) -> Field:
    """A text in which the pattern is found."""
    compiled = re.compile(pattern)
    return Field(wanted, lambda value: is_text(value) and compiled.search(value) is not None)


def at_least(least: int) -> Field:
    """A whole number that is not less."""
    return Field(f"a whole number, {least} or more", lambda value: type(value) is int and value >= least)


def template(*names: str, needs: str = "") -> Field:
    """A text for str.format, whose placeholders are of these names, `needs` among them."""
    wanted = f"a text with {{{needs}}}" if needs else "a text"

    def fits(value: Any) -> bool:
        try:
            used = [part[1:] for part in string.Formatter().parse(value) if part[1] is not None] if is_text(value) else None
        except ValueError:  # a brace that is alone
            return False
        return (
            used is not None
            and all(part[0] in names and not part[1] and not part[2] for part in used)
            and (not needs or any(part[0] == needs for part in used))
        )

    return Field(f"{wanted}, and no placeholder but {', '.join(f'{{{name}}}' for name in names)}", fits)


def list_of(field: Field, least: int, most: int | None = None) -> Field:
    """A list of so many values that each fit `field`."""
    numbers = f"{least} or more" if most is None else f"{least} to {most}" if most > least else f"{least}"

    def fits(value: Any) -> bool:
        return isinstance(value, list) and least <= len(value) <= (most or len(value)) and all(map(field.fits, value))

    return Field(f"a list of {numbers}, each {field.wanted}", fits)
