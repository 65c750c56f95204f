"""Files are written whole or not at all, and what can't be written is one line."""

import errno
from pathlib import Path

import pytest

from evalkit import cli
from evalkit.errors import EvalkitError, RunIncomplete
from evalkit.files import require_file, unwritable, write_atomically, write_output


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
    with pytest.raises(RunIncomplete, match=r"cannot write .*/file/x: .*nothing answered is lost"):
        write_atomically(tmp_path / "file" / "x", [""])


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("run --tasks gsm8k --model nothing", "--out"),
        ("score gsm8k nothing.jsonl --data nowhere", "--out"),
        ("score mt_bench nothing.jsonl --data nowhere", "--out"),
        ("bench random:nothing", "--out"),
        ("report nothing", "--out"),
        ("params random:nothing", "--out"),
        ("compare nothing nothing", "--out"),
        ("view nothing", "--out"),
        ("gate nothing nothing", "--junit"),
        ("gate nothing nothing", "--json"),
        ("gate nothing nothing", "--summary"),
        ("upcycle nothing", ""),
        ("quantize nothing --format gptq-int4", ""),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(
    command: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    link = tmp_path / "link"
    link.symlink_to("gone")
    for place in (tmp_path / "file" / "x", link / "x", tmp_path / ("long" * 100)):
        assert cli.main([*command.split(), *([option] if option else []), str(place)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("evalkit: cannot write ")
        assert line.endswith(f"; give {option or 'DEST'} a path in a writable folder")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "link"]


def test_a_folder_in_the_place_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("correct nothing --labels l --json", "gate nothing nothing --junit"):
        assert cli.main([*command.split(), str(tmp_path)]) == 2
        assert "is a folder; give a file's name" in capsys.readouterr().err
    require_file(Path("/dev/stdout"), "--junit")


def test_a_full_disk_is_another_matter(tmp_path: Path) -> None:
    """The same command may succeed later, so it ends with 4."""
    assert unwritable(tmp_path, OSError(errno.ENOSPC, "No space left on device")).exit_code == RunIncomplete.exit_code
    assert unwritable(tmp_path, OSError(errno.EACCES, "Permission denied")).exit_code == EvalkitError.exit_code
