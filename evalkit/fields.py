"""Values from files and command lines, checked against the annotations of the dataclass that they are for."""

import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

from evalkit.errors import EvalkitError, unknown

T = TypeVar("T")
NAMES = {str: "text", int: "an integer", float: "a number", bool: "true or false"}


def load_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds. Raises EvalkitError where it can't be read."""
    try:
        with open(path, "rb") as f:
            return tomllib.load(f)
    except OSError as error:
        raise EvalkitError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise EvalkitError(f"cannot read {path}: not valid TOML ({error})") from None


def annotations(config: type) -> dict[str, Any]:
    """Each field's annotation."""
    return typing.get_type_hints(config)


def without_none(annotation: Any) -> Any:
    """`X` of `X | None`; any other annotation as it stands."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (each for each in get_args(annotation) if each is not types.NoneType)
    return annotation


def parse(config: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values as the dataclass's fields want them: a list of texts becomes a tuple, an integer a float where the field is one.

    `where` begins each message, and says which file. Raises EvalkitError for an unknown key and a value of another type.
    """
    known = annotations(config)
    parsed = {}
    for key, value in values.items():
        if key not in known:
            raise unknown(f"key in {where}:", key, known)
        parsed[key] = _parse(value, without_none(known[key]), f"{where}: {key}")
    return parsed


def build(config: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of a dataclass. Raises EvalkitError as `parse`, and for a field that lacks a value and has no default."""
    parsed = parse(config, values, where)
    for field in fields(config):  # type: ignore[arg-type]  # T is a dataclass
        if field.default is MISSING and field.default_factory is MISSING and field.name not in parsed:
            raise EvalkitError(f"{where}: {field.name} is missing; add it")
    return config(**parsed)


def _parse(value: Any, annotation: Any, name: str) -> Any:
    if get_origin(annotation) is tuple:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise EvalkitError(f"{name} = {value!r} must be a list of texts, as in ['mmlu', 'gsm8k']")
        return tuple(value)
    accepted = (int, float) if annotation is float else annotation
    # in Python, not in TOML or JSON, true is an integer
    if not isinstance(value, accepted) or (isinstance(value, bool) and annotation is not bool):
        raise EvalkitError(f"{name} = {value!r} must be {NAMES[annotation]}")
    return float(value) if annotation is float else value
