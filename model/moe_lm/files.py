"""Reads a checkpoint's small files: JSON objects and texts, each refused in one line that says what is wrong with it."""

import json
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moe_lm.errors import ModelError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# the index of a model in 100 files is below 10 MB; a chat template is the longest text
MAX_BYTES = 16 << 20
# twice the tensors of the largest models; Python takes about a hundred bytes and a microsecond for each
MAX_VALUES = 250_000

_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring = 3, 80
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, with or without a byte order mark.

    Raises ModelError where the file is missing, empty, cut, too large, nested too deeply, a Git LFS pointer, not UTF-8, or
    holds something other than one object whose keys are all different.
    """
    return parse_json(read_bytes(path, MAX_BYTES), path)


def parse_json(raw: bytes, source: object) -> dict[str, Any]:
    """`read_json` of bytes that were read from `source`, which messages name."""
    if not raw.strip():
        raise ModelError(f"{source} is empty; download it again")
    if sum(map(raw.count, (b"[", b"{", b","))) > MAX_VALUES:
        raise ModelError(f"{source} holds more than {MAX_VALUES:,} JSON values; is it what its name says?")
    try:
        value = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_distinct)
        if _SURROGATE.search(raw):
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except RecursionError:
        raise ModelError(f"{source} is not readable as JSON: its values are nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, UnicodeError, a number of too many digits, a key given twice
        raise ModelError(f"{source} is not readable as JSON: {one_line(str(error))}; download it again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{source} does not hold a JSON object but {shown(value)}")
    return value


def read_text(path: Path) -> str:
    """A text of at most `MAX_BYTES`. Raises ModelError as `read_json` does."""
    try:
        return read_bytes(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); download it again") from None


def is_there(path: Path) -> bool:
    """Whether there is a file, or a link whose target may be missing (a cleaned-up cache leaves such links): reading that is refused."""
    return path.exists() or path.is_symlink()


def read_bytes(path: Path, limit: int) -> bytes:
    """A file's bytes. Raises ModelError where it can't be read, is larger than `limit`, or is a Git LFS pointer."""
    refuse_lfs_pointer(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    if len(raw) > limit:
        raise ModelError(f"{path} is larger than the {limit >> 20} MiB that such a file may have; is it what its name says?")
    return raw


def refuse_lfs_pointer(path: Path) -> None:
    """Raises ModelError for what `git clone` leaves in place of a file where Git LFS is not installed, and for unreadable files."""
    if path.exists() and not path.is_file():
        raise ModelError(f"cannot read {path}: it is not a regular file")
    try:
        with open(path, "rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    if start == LFS_POINTER:
        raise ModelError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder")


def shown(value: Any) -> str:
    """A value for a message, as Python writes it, cut where it is long."""
    return one_line(_REPR.repr(value))


def one_line(text: str) -> str:
    """A text for a message: in one line, and cut where it is long."""
    text = "".join(c if c.isprintable() else " " for c in text[:200])
    return text if len(text) <= 100 else text[:97] + "..."


def and_more(others: int) -> str:
    """What a message adds to the names that it shows, where there are others: " and 2 more"."""
    return f" and {others:,} more" if others > 0 else ""


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it has the key {shown(key)} twice")
        found[key] = value
    return found
