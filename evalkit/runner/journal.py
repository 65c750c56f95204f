"""The journal: one SQLite row per response, written as it arrives. It serves to resume, as a cache and as a record.

A row's key is a hash over the model's fingerprint and the request, so that other weights, another tokenizer, prompt,
sampling setting or numeric mode give another key, and no stale answer is ever returned. A row also has a hash over its content,
so that no damaged answer is returned either.

Guarantees:

- Kill -9 loses the responses in flight. A response that was put is with the operating system, whatever happens to the process.
- A power cut loses at most the answers of SYNC_EVERY seconds: the first answer after that time is put with an fsync, which
  also writes all earlier ones. An answer is stored whole or not at all, and none is stored without those before it.
- A full or failing disk stops the run (exit code 4); what was put is kept.
- Damage (a flipped bit, a cut file) is found when a run opens its journal. The intact answers are then moved to a new
  journal, the damaged file is kept, and the same command again computes the rest.
"""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from evalkit.codec import encode
from evalkit.errors import EvalkitError, RunIncomplete
from evalkit.files import unwritable
from evalkit.hashing import sha256_json
from evalkit.record.schema import Tokens
from evalkit.runner import salvage
from evalkit.runner.lock import WRITABLE, lock, transaction
from evalkit.tasks import Generated, Loglikelihood, Loglikelihoods, Request, Response

SCHEMA = 2
SYNC_EVERY = 1.0  # seconds; an fsync per answer would slow down a fast model on a slow disk
_ROW = "key, task, seconds, computed, shared, sha256, response"
_INSERT = "INSERT OR IGNORE INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)"
_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    # the response comes last, since it may not fit into the row's page
    "CREATE TABLE responses (key TEXT PRIMARY KEY, task TEXT NOT NULL, seconds REAL NOT NULL, computed INTEGER NOT NULL,"
    " shared INTEGER NOT NULL, sha256 BLOB NOT NULL, response TEXT NOT NULL) WITHOUT ROWID",
    f"INSERT INTO meta VALUES ('schema', '{SCHEMA}')",
)


def request_key(fingerprint: str, request: Request) -> str:
    """sha256 (hex) over the engine's fingerprint and the request."""
    # once, what a protocol cut was counted as truncated, and some engines did not cut: such answers are asked for again
    cut = ["cut_by_protocol"] if isinstance(request, Loglikelihood) and request.truncate_above is not None else []
    return sha256_json([fingerprint, encode(request), *cut])


class Journal:
    """The journal, open for one process at a time; `fresh` discards its content.

    Raises EvalkitError if another process has the file, or if it is foreign, of another version or (for a reader) damaged, and
    RunIncomplete if a damaged one was repaired.
    """

    def __init__(self, path: Path, read_only: bool = False, fresh: bool = False):
        self.path, self.read_only = path, read_only
        if read_only and not path.exists():
            raise EvalkitError(f"{path} does not exist; is it a run's folder?")
        self._lock = None if read_only else lock(path.with_suffix(".lock"))
        self._db: sqlite3.Connection = None  # type: ignore[assignment]
        self._synced, self._syncs = float("-inf"), True  # when, and whether the connection syncs as it commits
        try:
            if fresh:  # under the lock, so it is not another process's
                for suffix in ("", *_BESIDE):
                    Path(f"{path}{suffix}").unlink(missing_ok=True)
            self._open()
        except OSError as error:
            self.close()
            raise unwritable(path.parent, error, WRITABLE) from None
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        try:
            with self._errors():
                self._db = self._connect()
                tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master")}
                if not tables and not self.read_only:
                    _create(self._db)
                elif "meta" not in tables:
                    raise _Damage(self, "an SQLite file, but not of a run")
                (found,) = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() or (None,)
                if not str(found).isdigit():
                    raise _Damage(self, f"its schema is {found!r}")
                if found != str(SCHEMA):
                    raise EvalkitError(
                        f"{self.path} has journal schema {found}, this evalkit reads {SCHEMA}; use --fresh or another --name"
                    )
                if not self.read_only:
                    self._db.execute("PRAGMA journal_mode=WAL")
                    self._check()
        except _Damage as damage:
            if self.read_only:
                raise
            self._salvage(damage.what)

    def _connect(self) -> sqlite3.Connection:
        if self.read_only:
            # a reader need not write to the folder, as WAL's shared memory would if no writer has it open
            for mode in ("mode=ro", "immutable=1"):
                db = sqlite3.connect(f"{self.path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)
                try:
                    db.execute("SELECT 1 FROM sqlite_master")
                    break
                except sqlite3.DatabaseError as error:
                    db.close()
                    wal = Path(f"{self.path}-wal")
                    if _code(error) != sqlite3.SQLITE_CANTOPEN or (wal.exists() and wal.stat().st_size):
                        raise
        else:
            db = sqlite3.connect(self.path, isolation_level=None)
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")  # the row's hash finds damaged text
        return db

    def get(self, key: str) -> Response | None:
        """The recorded response, or None."""
        with self._errors():
            row = self._db.execute(f"SELECT {_ROW} FROM responses WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            if not _whole(row):
                raise _Damage(self, f"the answer {key[:12]} is not as it was written")
        return _decode(json.loads(row[-1]))

    def put(self, key: str, response: Response, task: str, seconds: float, computed: int, shared: int) -> None:
        """Record a response with its time and tokens. The first one under a key stays."""
        given = {field.name: getattr(response, field.name) for field in fields(response)}
        text = json.dumps(given, ensure_ascii=True, separators=(",", ":"))
        head = (key, task, float(seconds), int(computed), int(shared))
        now = time.monotonic()
        sync = now - self._synced >= SYNC_EVERY
        with self._errors():
            if sync != self._syncs:
                self._db.execute(f"PRAGMA synchronous={'FULL' if sync else 'NORMAL'}")
                self._syncs = sync
            self._db.execute(_INSERT, (*head, _digest(*head, text), text))  # a transaction of its own
        if sync:
            self._synced = now

    def take(self, other: "Journal") -> None:
        """Copy another journal's rows, all or none. Raises EvalkitError for a damaged one, and for another answer to the same request."""
        with other._errors():
            rows = other._db.execute(f"SELECT {_ROW} FROM responses").fetchall()
        with self._errors(), transaction(self._db):
            for row in rows:
                if not _whole(row):
                    raise _Damage(other, f"the answer {str(row[0])[:12]} is not as it was written")
                if self._db.execute(_INSERT, row).rowcount:
                    continue
                (held,) = self._db.execute("SELECT response FROM responses WHERE key = ?", row[:1]).fetchone()
                if held != row[-1]:
                    raise EvalkitError(
                        f"{other.path} has another answer to a request of {row[1]} than a shard before it; "
                        "run one of the two with --fresh, or the whole in one process if the engine answers differently each time"
                    )

    def responses(self, task: str) -> Iterator[Response]:
        """The recorded responses of one task ("mmlu@qwen"), whichever model's they are."""
        with self._errors():
            for row in self._db.execute(f"SELECT {_ROW} FROM responses WHERE task = ?", (task,)):
                if _whole(row):
                    yield _decode(json.loads(row[-1]))

    def spent(self, task: str) -> tuple[float, Tokens]:
        """Seconds and tokens of all sessions of this run, for one task."""
        sums = "SELECT total(seconds), coalesce(sum(computed), 0), coalesce(sum(shared), 0) FROM responses WHERE task = ?"
        with self._errors():
            seconds, computed, shared = self._db.execute(sums, (task,)).fetchone()
        return seconds, Tokens(computed, shared)

    def __len__(self) -> int:
        with self._errors():
            return int(self._db.execute("SELECT count(*) FROM responses").fetchone()[0])

    def _check(self) -> None:
        """SQLite itself checks neither pages nor rows when it reads them."""
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _Damage(self, " ".join(verdict.split()).removeprefix("*** in database main *** "))
        for row in self._db.execute(f"SELECT {_ROW} FROM responses"):
            if not _whole(row):
                raise _Damage(self, f"the answer {str(row[0])[:12]} is not as it was written")

    def _salvage(self, what: str) -> None:
        """Move the intact answers to a new journal and keep the damaged one. Raises RunIncomplete, which says so.

        Raises EvalkitError for a file without any, which is left alone.
        """
        if self._db:
            self._db.close()
        whole = [row for row in salvage.rows(self.path) if len(row) == _ROW.count(",") + 1 and _whole(row)]
        if not whole:
            raise EvalkitError(
                f"{self.path} is not a journal, or has no intact answer ({what}); use --fresh to start over, or another --name"
            )
        rescued, damaged = self.path.with_suffix(".rescued"), self.path.with_suffix(".damaged")
        with self._errors():
            for suffix in ("", *_BESIDE):
                Path(f"{rescued}{suffix}").unlink(missing_ok=True)
            with closing(sqlite3.connect(rescued, isolation_level=None)) as db:
                _create(db)
                db.execute("BEGIN")
                db.executemany(_INSERT, whole)
                db.execute("COMMIT")
                (count,) = db.execute("SELECT count(*) FROM responses").fetchone()
        # the old write-ahead log goes first: SQLite would merge it into any file with that name
        for suffix in (*_BESIDE, ""):
            if (old := Path(f"{self.path}{suffix}")).exists():
                old.replace(f"{damaged}{suffix}")
        rescued.replace(self.path)
        raise RunIncomplete(
            f"{self.path} was damaged ({what}): the {count} answers that are whole are now in a new journal,"
            f" the damaged file is kept as {damaged.name}; run the same command again to compute the rest"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert SQLite's exceptions to evalkit's, in one line that says what to do."""
        try:
            yield
        except UnicodeDecodeError:  # from Python's sqlite3 where SQLite's message quotes damaged text
            raise _Damage(self, "its schema is not text") from None
        except sqlite3.DatabaseError as error:
            self.require_in_place()
            code = _code(error)
            if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY):
                remedy = "close the program that holds it" if code == sqlite3.SQLITE_BUSY else "free some space or mend the disk"
                raise RunIncomplete(
                    f"cannot write {self.path}: {error}; {remedy} and run the same command again, nothing answered is lost"
                ) from None
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
                raise _Damage(self, str(error)) from None
            raise EvalkitError(
                f"cannot use {self.path}: {error}; is the folder writable, with space, and the file a run's journal?"
            ) from None

    def require_in_place(self) -> None:
        """Raises RunIncomplete where the folder was moved or removed while the run wrote to it, before a new one is made there."""
        if self._lock is None:
            return
        ours = os.fstat(self._lock.fileno())
        try:
            found = os.stat(self.path.with_suffix(".lock"))
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino):
            raise RunIncomplete(
                f"{self.path.parent} was moved or removed while the run wrote to it; if it was moved, its answers are in it: "
                "put it back and run the same command again"
            )

    def close(self) -> None:
        """Merge the write-ahead log into the file and release the lock."""
        if self._db:
            self._db.close()
        if self._lock:
            self._lock.close()


class _Damage(EvalkitError):
    """The file's content is not what was written."""

    def __init__(self, journal: Journal, what: str):
        self.what = what
        self.exit_code = EvalkitError.exit_code if journal.read_only else RunIncomplete.exit_code
        fix = "run the command that made it" if journal.read_only else "run the same command"
        super().__init__(f"{journal.path} is damaged ({what}); {fix} again, it keeps the answers that are whole")


_BESIDE = ("-wal", "-shm", "-journal")  # suffixes of SQLite's additional files


def _create(db: sqlite3.Connection) -> None:
    """An empty journal, whole or not at all."""
    db.execute(f"PRAGMA page_size={salvage.PAGE}")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("BEGIN IMMEDIATE")
    for statement in _TABLES:
        db.execute(statement)
    db.execute("COMMIT")


def _digest(*fields: object) -> bytes:
    return hashlib.sha256(repr(fields).encode()).digest()


def _whole(row: tuple[Any, ...]) -> bool:
    key, task, seconds, computed, shared, digest, text = row
    if isinstance(seconds, int):  # so SQLite keeps a number without a fraction
        seconds = float(seconds)
    return bool(_digest(key, task, seconds, computed, shared, text) == digest)


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    return int(getattr(error, "sqlite_errorcode", -1)) & 0xFF


def _decode(fields: dict[str, Any]) -> Response:
    if "text" in fields:
        return Generated(**fields)
    return Loglikelihoods(**fields | {"logprobs": tuple(fields["logprobs"]), "is_greedy": tuple(fields["is_greedy"])})
