"""The journal: one SQLite row a response, written as it arrives. It is the resume, the cache and the record at once.

A row's key is a hash over the model's fingerprint and the request, so that another weight, tokenizer, prompt, sampling
setting or numeric mode is another key: no stale answer is ever served. Kill -9 loses at most what was in flight.
"""

import fcntl
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evalkit.api import Generated, Loglikelihoods, Request, Response, sha256_json
from evalkit.errors import EvalkitError, RunIncomplete

SCHEMA = 1


def request_key(fingerprint: str, request: Request) -> str:
    """sha256 (hex) over who answers and what is asked."""
    return sha256_json([fingerprint, asdict(request)])


class Journal:
    """Open for one process at a time; `fresh` forgets what was there.

    Raises EvalkitError where the file is another process's, foreign or damaged.
    """

    def __init__(self, path: Path, read_only: bool = False, fresh: bool = False):
        self.path = path
        if read_only and not path.exists():
            raise EvalkitError(f"{path} does not exist; is it a run's folder?")
        self._lock = None if read_only else _lock(path.with_suffix(".lock"))
        if fresh:  # under the lock: never another process's
            for suffix in ("", "-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
        self._db: sqlite3.Connection = None  # type: ignore[assignment]
        try:
            self._open(read_only)
        except EvalkitError:
            self.close()
            raise

    def _open(self, read_only: bool) -> None:
        with _errors(self.path):
            # a reader must not need write access to the folder, as WAL's shared memory file does
            target = f"{self.path.absolute().as_uri()}?mode=ro" if read_only else self.path
            self._db = sqlite3.connect(target, uri=read_only, isolation_level=None)
            if not read_only:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._create()
            found = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        if found is None or found[0] != str(SCHEMA):
            raise EvalkitError(
                f"{self.path} has journal schema {found and found[0]}, this evalkit reads {SCHEMA}; use --fresh or another --name"
            )

    def _create(self) -> None:
        with self._transaction():
            self._db.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
            self._db.execute("CREATE TABLE IF NOT EXISTS responses (key TEXT PRIMARY KEY, response TEXT NOT NULL) WITHOUT ROWID")
            self._db.execute("CREATE TABLE IF NOT EXISTS spent (task TEXT PRIMARY KEY, seconds REAL, computed INTEGER, shared INTEGER)")
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA),))

    def get(self, key: str) -> Response | None:
        """The recorded response, or None."""
        with _errors(self.path):
            row = self._db.execute("SELECT response FROM responses WHERE key = ?", (key,)).fetchone()
        return _decode(json.loads(row[0])) if row else None

    def put(self, key: str, response: Response, task: str, seconds: float, computed: int, shared: int) -> None:
        """Record a response and what it took, in one transaction: both are on disk, or neither."""
        text = json.dumps(asdict(response), ensure_ascii=True, separators=(",", ":"))
        with _errors(self.path), self._transaction():
            self._db.execute("INSERT OR IGNORE INTO responses VALUES (?, ?)", (key, text))
            self._db.execute(
                "INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT (task) DO UPDATE SET"
                " seconds = seconds + excluded.seconds, computed = computed + excluded.computed, shared = shared + excluded.shared",
                (task, seconds, computed, shared),
            )

    def spent(self, task: str) -> tuple[float, int, int]:
        """Seconds, computed and shared tokens of all sessions of this run, for one task."""
        with _errors(self.path):
            row = self._db.execute("SELECT seconds, computed, shared FROM spent WHERE task = ?", (task,)).fetchone()
        return row or (0.0, 0, 0)

    def __len__(self) -> int:
        with _errors(self.path):
            return int(self._db.execute("SELECT count(*) FROM responses").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Fold the write-ahead log into the file and let go of the lock."""
        if self._db:
            self._db.close()
        if self._lock:
            self._lock.close()


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """SQLite's exceptions as ours: a full disk stops the run (what is written stays), a foreign file is bad input."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error) or "disk I/O" in str(error):
            raise RunIncomplete(
                f"cannot write {path}: {error}; free some space and run the same command again, nothing answered is lost"
            ) from None
        raise EvalkitError(f"cannot use {path}: {error}; is the folder writable and the file a run's journal?") from None
    except sqlite3.DatabaseError as error:
        raise EvalkitError(f"{path} is not a readable journal ({error}); use --fresh to start anew or --name for another run") from None


def _lock(path: Path) -> Any:
    try:
        lock = open(path, "w")  # noqa: SIM115 - held open for as long as the journal is
    except OSError as error:
        raise EvalkitError(f"cannot write to {path.parent}: {error.strerror}; pass --out a writable folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise EvalkitError(f"another evalkit process is writing {path.parent}; wait for it, or pass another --name") from None
    return lock


def _decode(fields: dict[str, Any]) -> Response:
    if "text" in fields:
        return Generated(**fields)
    return Loglikelihoods(tuple(fields["logprobs"]), tuple(fields["is_greedy"]), fields["truncated"], fields["merged"])
