"""What the columns of a benchmark's tables may hold. Every row is checked against it when it is read (evalkit/data/rows.py)."""

import re
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
NAME = Field("a whole number or a text", lambda value: type(value) is int or TEXT.fits(value))
OBJECT = Field("an object", lambda value: isinstance(value, dict))


def one_of(*values: str | int) -> Field:
    """One of these values, of the same type: 1 is neither "1" nor true."""
    return Field(f"one of {', '.join(map(repr, values))}", lambda found: any(type(found) is type(v) and found == v for v in values))


def matching(pattern: str, wanted: str) -> Field:
    """A text in which the pattern is found."""
    compiled = re.compile(pattern)
    return Field(wanted, lambda value: is_text(value) and compiled.search(value) is not None)


def list_of(field: Field, least: int, most: int | None = None) -> Field:
    """A list of so many values that each fit `field`."""
    numbers = f"{least} or more" if most is None else f"{least} to {most}" if most > least else f"{least}"

    def fits(value: Any) -> bool:
        return isinstance(value, list) and least <= len(value) <= (most or len(value)) and all(map(field.fits, value))

    return Field(f"a list of {numbers}, each {field.wanted}", fits)
