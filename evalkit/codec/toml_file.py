"""TOML files, with the line of each key: tomllib reads values alone, and a message should name the line at fault."""

import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.files import encoding_of

LONGEST = 200  # lines of one statement; the keys of a longer one have no line
LARGEST = 16 << 20  # bytes: /dev/zero has no end
Keys = tuple[str | int, ...]  # ("row", 0, "cell", "mmlu"): what leads to a value


@dataclass(frozen=True)
class TomlFile:
    """A file's values, its text, and its bytes as they were read."""

    path: Path
    values: dict[str, Any]
    text: str
    raw: bytes

    @classmethod
    def read(cls, path: Path) -> "TomlFile":
        """Raises EvalkitError where it can't be read."""
        try:
            with open(path, "rb") as file:
                raw = file.read(LARGEST + 1)
            if len(raw) > LARGEST:
                raise EvalkitError(f"cannot read {path}: more than {LARGEST >> 20} MiB, and such a file is a few pages; give another")
            text = raw.decode(encoding_of(raw)).replace("\r\n", "\n")
            return cls(path, tomllib.loads(text), text, raw)
        except OSError as error:
            raise EvalkitError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or nested too deep
            raise EvalkitError(f"cannot read {path}: not valid TOML ({error})") from None

    def place(self, keys: Sequence[str | int]) -> str:
        """ "table.toml:12": the file and the line of the key, or of the innermost table around it."""
        lines = (self._lines.get(tuple(keys[:length])) for length in range(len(keys), 0, -1))
        line = next((line for line in lines if line), None)
        return f"{self.path}:{line}" if line else str(self.path)

    @cached_property
    def _lines(self) -> dict[Keys, int]:
        found: dict[Keys, int] = {}
        for keys, line in _keys(self.text):
            found.setdefault(keys, line)
        return found


def _keys(text: str) -> Iterator[tuple[Keys, int]]:
    """Every key of a valid file, with the line on which its statement begins."""
    table: Keys = ()
    tables = Counter[Keys]()  # how many tables an array of tables has so far
    for line, statement in _statements(text):
        if not statement.lstrip().startswith("["):
            yield from ((table + keys, line) for keys in _paths(tomllib.loads(statement)))
            continue
        table, inner = (), tomllib.loads(statement)
        while inner:
            ((key, value),) = inner.items()
            table += (key,)
            yield table, line
            if isinstance(value, list):  # [[row]]: the last key of its header
                tables[table] += 1
                value = value[0]
            if tables[table]:  # the last table of an array that was begun before
                table += (tables[table] - 1,)
            inner = value
        yield table, line


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """The statements of a valid file with their first lines. One that spans lines is the shortest run of them that TOML accepts."""
    begun, lines = 0, list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        if not lines:
            begun = number
        lines.append(line)
        if len(lines) <= LONGEST and _is_toml(statement := "\n".join(lines)):
            lines = []
            if statement.strip() and not statement.lstrip().startswith("#"):
                yield begun, statement


def _is_toml(statement: str) -> bool:
    try:
        tomllib.loads(statement)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _paths(value: Any, keys: Keys = ()) -> Iterator[Keys]:
    """The keys that lead to each value inside this one."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield (*keys, key)
        yield from _paths(item, (*keys, key))
