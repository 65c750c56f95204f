"""Frozen dataclasses <-> JSON and TOML, by their annotations.

A field without a default must be in the file. One with a default may be missing, and is written all the same; marked OPTIONAL it
is left out while it holds its default. A key that no field has is refused: a file that was not understood is not read in part.

Annotations may be made of str, int, float (an integer will do; NaN and infinities are refused), bool, None, Any, Literal,
dataclasses, unions of these, Mapping[str, X], tuple[X, ...] and tuple[X, Y].
"""

import difflib
import functools
import json
import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from evalkit.codec.toml_file import TomlFile
from evalkit.errors import EvalkitError

OPTIONAL: Mapping[str, bool] = types.MappingProxyType({"optional": True})  # a field's metadata
T = TypeVar("T")
LONGEST = 40  # characters of a key or value shown in a message


def key(name: str) -> Mapping[str, str]:
    """A field's metadata: the key that it has in the file, where that is not its own name."""
    return types.MappingProxyType({"key": name})


class Misfit(Exception):
    """What does not fit, and the keys that lead to it, the innermost first."""

    def __init__(self, what: str, *keys: str | int):
        self.what, self.keys = what, list(keys)

    def under(self, key: str | int) -> "Misfit":
        """The same, seen from one level further out."""
        self.keys.append(key)
        return self

    def in_file(self, file: TomlFile, fix: str) -> EvalkitError:
        """The error that names file, line and key."""
        what = str(self).removesuffix(" or null")  # which TOML does not have
        return EvalkitError(f"{file.place(self.keys[::-1])}: {what}; {fix}")

    def __str__(self) -> str:
        # keys come from the file: what is not printable on one line is escaped
        keys = (key if key.isprintable() and 0 < len(key) <= LONGEST else shown(key) for key in map(str, reversed(self.keys)))
        return f"{'.'.join(keys) or 'the whole'} {self.what}"


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one annotation: the `kinds` of JSON value that it accepts, `words` for messages, and the keys that an object `needs`."""

    kinds: frozenset[type]
    words: str
    read: Callable[[Any], Any]
    needs: frozenset[str] = frozenset()

    def __call__(self, value: Any) -> Any:
        if type(value) not in self.kinds:
            raise Misfit(f"is {shown(value)}, expected {self.words}")
        return self.read(value)


def decode(kind: type[T], value: Any, source: str, fix: str = "run it again") -> T:
    """A `kind` out of parsed JSON. Raises EvalkitError that names the source, the key path, what was found and what was expected."""
    try:
        return cast(T, _reader(kind)(value))
    except Misfit as misfit:
        raise EvalkitError(f"{source}: {misfit}; {fix}") from None


def decode_toml(kind: type[T], file: TomlFile, fix: str) -> T:
    """A `kind` out of a TOML file. Raises as `decode`, and names the line."""
    try:
        return cast(T, _reader(kind)(file.values))
    except Misfit as misfit:
        raise misfit.in_file(file, fix) from None


def decode_given(kind: type, file: TomlFile, fix: str) -> dict[str, Any]:
    """Those fields of a `kind` that a file gives, by name: for a file that is not the only place to say them. Raises as `decode_toml`."""
    try:
        return _given(kind)(file.values)
    except Misfit as misfit:
        raise misfit.in_file(file, fix) from None


def encode(value: Any) -> Any:
    """Dataclasses, mappings and sequences as JSON has them."""
    if is_dataclass(value):
        return {key: encode(item) for key, name, default in _written(type(value)) if (item := getattr(value, name)) != default}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


_ALWAYS = object()  # equal to no field's value


def _written_fields(kind: Any) -> list[tuple[str, str, object]]:
    """(key, name, the value that is left out) of each field."""
    return [(_key(f), f.name, _default(f) if f.metadata.get("optional") else _ALWAYS) for f in fields(kind)]


def _key(field: "Field[Any]") -> str:
    return str(field.metadata.get("key", field.name))


def _default(field: "Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _reader_of(annotation: Any) -> _Reader:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return _Reader(frozenset({dict, list, str, int, float, bool, types.NoneType}), "anything", lambda value: value)
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    if is_dataclass(annotation):
        return _object(annotation)
    if origin is Literal:
        return _literal(arguments)
    if origin in (Union, types.UnionType):
        return _union([_reader(each) for each in arguments])
    if origin is tuple and arguments[-1] is Ellipsis:
        return _list(_reader(arguments[0]))
    if origin is tuple:
        return _sequence([_reader(each) for each in arguments])
    if origin is Mapping and arguments[0] is str:
        return _mapping(_reader(arguments[1]))
    raise TypeError(f"no JSON for {annotation}")


def _simple(words: str, *kinds: type) -> _Reader:
    return _Reader(frozenset(kinds), words, lambda value: value)


def _number(words: str, *kinds: type) -> _Reader:
    """Finite, and in 64 bits if it is whole: a larger one would overflow wherever it is computed with."""

    def read(value: int | float) -> int | float:
        if not (math.isfinite(value) if isinstance(value, float) else -(2**63) <= value < 2**64):
            raise Misfit(f"is {shown(value)}, expected {words} that is finite and fits into 64 bits")
        return value

    return _Reader(frozenset(kinds), words, read)


_SIMPLE: Mapping[Any, _Reader] = {
    str: _simple("a text", str),
    int: _number("a whole number", int),
    float: _number("a number", int, float),
    bool: _simple("true or false", bool),
    types.NoneType: _simple("null", types.NoneType),
}


def _object(kind: Any) -> _Reader:
    given = _given(kind)
    needs = [_key(f) for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]

    def read(value: dict[str, Any]) -> Any:
        found = given(value)
        for key in needs:
            if key not in value:
                raise Misfit("is missing", key)
        return kind(**found)

    return _Reader(frozenset({dict}), "an object", read, frozenset(needs))


def _given_reader(kind: Any) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    hints = get_type_hints(kind)
    names = {_key(field): field.name for field in fields(kind)}
    readers = {key: _reader(hints[name]) for key, name in names.items()}

    def read(value: Mapping[str, Any]) -> dict[str, Any]:
        given = {}
        for key, item in value.items():
            if (reader := readers.get(key)) is None:
                near = difflib.get_close_matches(key, readers, n=1)
                hint = f"did you mean {near[0]}?" if near else "was it written by a newer one?"
                raise Misfit(f"is no key that this evalkit knows ({hint})", key)
            try:
                given[names[key]] = reader(item)
            except Misfit as misfit:
                raise misfit.under(key) from None
        return given

    return read


def _literal(values: tuple[Any, ...]) -> _Reader:
    words = " or ".join(map(shown, values))

    def read(value: Any) -> Any:
        if value not in values:
            raise Misfit(f"is {shown(value)}, expected {words}")
        return value

    return _Reader(frozenset(map(type, values)), words, read)


def _union(readers: list[_Reader]) -> _Reader:
    """The alternative that accepts this kind of JSON value; among several kinds of object, the first whose needed keys are all there."""

    def read(value: Any) -> Any:
        fitting = [reader for reader in readers if type(value) in reader.kinds]
        if len(fitting) > 1:
            fitting = [reader for reader in fitting if reader.needs <= value.keys()]
        if not fitting:
            raise Misfit(" and ".join(f"lacks {', '.join(sorted(reader.needs - value.keys()))}" for reader in readers if reader.needs))
        return fitting[0].read(value)

    words = " or ".join(dict.fromkeys(reader.words for reader in readers))
    return _Reader(frozenset().union(*(reader.kinds for reader in readers)), words, read)


def _items(pairs: Iterable[tuple[_Reader, Any]]) -> tuple[Any, ...]:
    found = []
    for i, (reader, item) in enumerate(pairs):
        try:
            found.append(reader(item))
        except Misfit as misfit:
            raise misfit.under(i) from None
    return tuple(found)


def _list(reader: _Reader) -> _Reader:
    return _Reader(frozenset({list}), f"a list of {reader.words}", lambda value: _items((reader, item) for item in value))


def _sequence(readers: list[_Reader]) -> _Reader:
    words = f"a list of {len(readers)}: {', '.join(reader.words for reader in readers)}"

    def read(value: list[Any]) -> tuple[Any, ...]:
        if len(value) != len(readers):
            raise Misfit(f"is {shown(value)}, expected {words}")
        return _items(zip(readers, value, strict=True))

    return _Reader(frozenset({list}), words, read)


def _mapping(reader: _Reader) -> _Reader:
    def read(value: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for key, item in value.items():
            try:
                found[key] = reader(item)
            except Misfit as misfit:
                raise misfit.under(key) from None
        return found

    return _Reader(frozenset({dict}), "an object", read)


def shown(value: Any) -> str:
    """A value as the file has it, cut where it is long."""
    text = json.dumps(value, default=str)  # TOML has dates
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]}.."


# cached: each type is analysed once. Not as decorators, since mypy does not accept a class as Hashable
_reader: Callable[[Any], _Reader] = functools.cache(_reader_of)
_given: Callable[[Any], Callable[[Mapping[str, Any]], dict[str, Any]]] = functools.cache(_given_reader)
_written: Callable[[Any], list[tuple[str, str, object]]] = functools.cache(_written_fields)
