"""What kind of value a key of config.json must have: its type and range, in a test and in words."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    """`words` complete the sentence "it must be ..". JSON's true and false are no numbers here, though Python's are."""

    words: str
    holds: Callable[[Any], bool]

    def or_null(self) -> "Kind":
        """The same, and null."""
        return Kind(f"{self.words}, or null", lambda value: value is None or self.holds(value))


def whole(low: int, high: int = 2**31 - 1) -> Kind:
    """The integers from `low` to `high`."""
    return Kind(f"an integer from {low:,} to {high:,}", lambda value: type(value) is int and low <= value <= high)


def number(words: str, holds: Callable[[float], bool]) -> Kind:
    """The finite numbers, with or without a decimal point, for which `holds`."""

    def accepts(value: Any) -> bool:
        try:
            return type(value) in (int, float) and math.isfinite(value) and holds(value)
        except OverflowError:  # an integer that no float can hold
            return False

    return Kind(words, accepts)


def _integers(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int for each in value)


def _token_ids(value: Any) -> bool:
    return type(value) is int or _integers(value)


COUNT = whole(1)
COUNT_OR_NONE = whole(0)
LAYERS = whole(1, 10_000)  # ten times the deepest model: a configuration may be read where no weights tell their number
INTEGERS = Kind("a list of integers", _integers)
FLAG = Kind("true or false", lambda value: type(value) is bool)
TEXT = Kind("a text", lambda value: isinstance(value, str))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
TOKEN_ID = Kind("a token id", lambda value: type(value) is int)
TOKEN_IDS = Kind("a token id or a list of token ids", _token_ids)
EPSILON = number("a number above 0 and at most 1", lambda value: 0 < value <= 1)
ROPE_BASE = number("a finite number of at least 1", lambda value: value >= 1)
