"""Files that are written whole or not at all."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evalkit.errors import RunIncomplete


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Write a text file whole or not at all. Raises RunIncomplete where the disk is full or the folder not writable."""
    with kept(path):
        stage(path, lines).replace(path)


def stage(path: Path, lines: Iterable[str]) -> Path:
    """The file under another name, through to the disk; nothing is left of it where that fails."""
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(partial, "w", encoding="utf-8", errors="surrogatepass") as f:
            f.writelines(lines)
            f.flush()
            os.fsync(f.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial


def sync(folder: Path) -> None:
    """Through to the disk: what names the folder holds. Some file systems can't, and a missing folder has no names."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextmanager
def kept(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunIncomplete(
            f"cannot write {path}: {error.strerror}; the answers are kept in the journal, run the same command again"
        ) from None
