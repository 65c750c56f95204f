"""The lines that errors in TOML files name."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalkit.codec import TomlFile
from evalkit.errors import EvalkitError
from evalkit.report.published import FOLDER

MIXED = """# a comment
title = "a [not a header]"
list = [
  1,  # [[neither]]
  { deep = 2 },
]
text = '''
[nor.this]
key = "value"
'''

[outer]
"quoted key".dotted = { inner = 1, other = [2] }

[[row]]
name = "first"
[row.cell."a.b"]
value = 1
[[row.inner]]
x = 1
[[row.inner]]
y = 2

[[row]]
name = "second"
[row.cell.c]
value = 2
"""


def paths(value: Any, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield keys
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield from paths(item, (*keys, key))


def line(file: TomlFile, *keys: str | int) -> str:
    place = file.place(keys)
    number = place.removeprefix(f"{file.path}").lstrip(":")
    return file.text.split("\n")[int(number) - 1] if number else ""


def test_lines_of_every_form(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(MIXED)
    file = TomlFile.read(tmp_path / "a.toml")
    assert line(file, "title").startswith("title =")
    assert line(file, "list", 1, "deep") == "list = ["  # the line on which the statement begins
    assert line(file, "text") == "text = '''"
    assert line(file, "outer", "quoted key", "dotted", "other", 0).startswith('"quoted key"')
    assert line(file, "row", 0, "name") == 'name = "first"'
    assert line(file, "row", 0, "cell", "a.b", "value") == "value = 1"
    assert line(file, "row", 0, "cell", "a.b", "missing") == '[row.cell."a.b"]'
    assert line(file, "row", 0, "inner", 1, "y") == "y = 2"
    assert line(file, "row", 1, "name") == 'name = "second"'
    assert line(file, "row", 1, "cell", "c", "value") == "value = 2"
    assert line(file, "absent") == ""


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_key_of_the_published_tables_stands_on_its_line(path: Path) -> None:
    file, checked = TomlFile.read(path), 0
    for keys in paths(file.values):
        names = [key for key in keys if isinstance(key, str)]
        if names and isinstance(keys[-1], str):
            assert names[-1] in line(file, *keys), keys
            checked += 1
    assert checked > 30


def test_windows_line_ends_and_a_value_of_many_lines(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"a = 1\r\nb = [\r\n" + b"1,\r\n" * 150 + b"]\r\n" + b"c = 3\r\n")
    assert TomlFile.read(tmp_path / "a.toml").place(["c"]).endswith(":154")
    many = "a = [\n" + "1,\n" * 100_000 + "]\nb = 2\n"
    (tmp_path / "a.toml").write_text(many)
    assert tomllib.loads(many) == TomlFile.read(tmp_path / "a.toml").values
    assert TomlFile.read(tmp_path / "a.toml").place(["b"]) == str(tmp_path / "a.toml")  # no line rather than minutes


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a = ", b"a = 1\na = 2", b"a = " + b"[" * 5_000])
def test_what_is_no_toml_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(EvalkitError) as caught:
        TomlFile.read(tmp_path / "a.toml")
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(EvalkitError, match="cannot read /dev/zero: more than 16 MiB"):
        TomlFile.read(Path("/dev/zero"))
