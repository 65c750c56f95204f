"""One at a time: the process that writes a folder, and the transaction on its database."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.files import unwritable

WRITABLE = "make it writable, or give another --out"


def lock(path: Path, doing: str = "writing", fix: str = "wait for it, or pass another --name") -> FileIO:
    """Take a lock file, which contains this process's id while it is open; if the process is killed, the lock is released.

    Raises EvalkitError if another process has it, and `unwritable`'s errors.
    """
    try:
        file = open(path, "a+b", buffering=0)  # noqa: SIM115 - held open for as long as the journal is
    except OSError as error:
        raise unwritable(path.parent, error, WRITABLE) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(b"%d\n" % os.getpid())
    except BlockingIOError:
        file.seek(0)
        holder = file.read(20).decode("ascii", "replace").strip()
        file.close()
        raise EvalkitError(
            f"another evalkit process{f' (pid {holder})' if holder.isdigit() else ''} is {doing} {path.parent}; {fix}"
        ) from None
    except OSError as error:
        file.close()
        raise unwritable(path.parent, error, WRITABLE) from None
    return file


def holder(path: Path) -> int | None:
    """The process that has the lock file now; None if there is none."""
    try:
        pid = int(path.read_text())
        os.kill(pid, 0)  # a lock that a killed process has left is not even tried
    except PermissionError:
        return pid  # another user's
    except (OSError, ValueError, OverflowError):
        return None
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return pid
    return None


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of the statements or none, on a connection without implicit transactions (isolation_level None)."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
