"""Files are written whole or not at all, and what can't be written is one line."""

from pathlib import Path

import pytest

from evalkit.errors import EvalkitError, RunIncomplete
from evalkit.files import write_atomically, write_output


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "new" / "x.jsonl"
    write_atomically(file, ["a\n", "\udcff\n"])

    def broken():
        yield "b\n"
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write_atomically(file, broken())
    assert file.read_text("utf-8") == "a\n\\udcff\n"  # JSON's own escape of what UTF-8 cannot hold
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("content", ["text\n", b"text\n"])
def test_an_output_is_replaced_or_appended_to(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "out" / "x"
    for _ in range(2):
        write_output(file, content)
    assert file.read_bytes() == b"text\n"
    write_output(file, content, append=True)
    assert file.read_bytes() == b"text\ntext\n"
    assert list(file.parent.iterdir()) == [file]


def test_an_output_is_valid_utf_8(tmp_path: Path) -> None:
    write_output(tmp_path / "x", "\udcff")
    assert (tmp_path / "x").read_text("utf-8") == "?"


def test_what_is_no_file_is_written_into() -> None:
    write_output(Path("/dev/null"), "text")
    assert not Path("/dev/null").is_file()


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvalkitError, match=r"cannot write .*/file/x: .*give a path in a writable folder"):
        write_output(tmp_path / "file" / "x", "")
    with pytest.raises(RunIncomplete, match=r"cannot write .*/file/x: .*the answers are kept in the journal"):
        write_atomically(tmp_path / "file" / "x", [""])
