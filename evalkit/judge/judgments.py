"""The judge's database: one SQLite row per judgment, on the disk as it arrives, and what the judgments have cost.

A row's key is a hash over the judge's identity, the messages and the repeat. Nothing is judged twice, except that a failed judgment may be
asked for again: the new one is stored beside the old one and replaces it. Requests are counted before they are sent and tokens when they
are billed, so that a budget holds over any number of sessions and kills.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError, RunIncomplete
from evalkit.hashing import sha256_json
from evalkit.judge.asks import Ask
from evalkit.runner.lock import lock, transaction

SCHEMA = 1
_TABLES = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS judgments (key TEXT, attempt INTEGER, sha256 TEXT NOT NULL, judgment TEXT NOT NULL,"
    " PRIMARY KEY (key, attempt))",
    "CREATE TABLE IF NOT EXISTS spent (judge TEXT PRIMARY KEY, requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,"
    " completion_tokens INTEGER NOT NULL)",
    f"INSERT OR IGNORE INTO meta VALUES ('schema', '{SCHEMA}')",
)


@dataclass(frozen=True, slots=True)
class Judgment:
    """A judge's text, or why there is none (`text` None, `error` one line). `model` is the name that the server reports."""

    text: str | None
    error: str = ""
    model: str = ""
    system_fingerprint: str = ""
    finish_reason: str = ""
    time: float = 0.0  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Spent:
    """Over all sessions: requests sent (tries included), and tokens billed."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def judgment_key(identity: Mapping[str, Any], ask: Ask) -> str:
    """sha256 (hex) over the judge's identity, the messages and the repeat."""
    return sha256_json([dict(identity), ask.messages, ask.repeat])


class JudgmentStore:
    """Open for one process at a time, used by any number of its threads. Raises EvalkitError or RunIncomplete, in one line."""

    def __init__(self, path: Path):
        self.path = path
        self._mutex = threading.Lock()
        self._file = lock(path.with_suffix(".lock"), "judging", "wait for it")
        try:
            with self._errors():
                self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")  # a judgment has been paid for: a power cut must not lose it
                for statement in _TABLES:
                    self._db.execute(statement)
                (found,) = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        except BaseException:
            self._file.close()
            raise
        if found != str(SCHEMA):
            self.close()
            raise EvalkitError(f"{path} has schema {found}, this evalkit reads {SCHEMA}; move it away to judge anew")

    def get(self, key: str) -> Judgment | None:
        """The last judgment under this key, or None."""
        with self._errors():
            row = self._db.execute(
                "SELECT attempt, sha256, judgment FROM judgments WHERE key = ? ORDER BY attempt DESC LIMIT 1", (key,)
            ).fetchone()
        if row is None:
            return None
        attempt, digest, text = row
        if _digest(key, attempt, text) != digest:
            raise EvalkitError(f"{self.path}: judgment {key[:12]} is not as it was written; move the file away to judge anew")
        return Judgment(**json.loads(text))

    def put(self, key: str, judgment: Judgment) -> None:
        """Record a judgment; an earlier one under the same key is kept, but no longer read."""
        text = json.dumps(asdict(judgment))
        with self._errors(), transaction(self._db):
            (attempt,) = self._db.execute("SELECT count(*) FROM judgments WHERE key = ?", (key,)).fetchone()
            self._db.execute("INSERT INTO judgments VALUES (?, ?, ?, ?)", (key, attempt, _digest(key, attempt, text), text))

    def charge(self, judge: str, spent: Spent) -> None:
        """Add to the cost of a judge so far."""
        with self._errors(), transaction(self._db):
            self._db.execute(
                "INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT (judge) DO UPDATE SET requests = requests + excluded.requests,"
                " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
                " completion_tokens = completion_tokens + excluded.completion_tokens",
                (judge, spent.requests, spent.prompt_tokens, spent.completion_tokens),
            )

    def spent(self, judge: str) -> Spent:
        """The cost of a judge so far, over all sessions."""
        with self._errors():
            row = self._db.execute("SELECT requests, prompt_tokens, completion_tokens FROM spent WHERE judge = ?", (judge,)).fetchone()
        return Spent(*row) if row else Spent()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """One thread at a time; SQLite's exceptions become EvalkitError or RunIncomplete."""
        try:
            with self._mutex:
                yield
        except sqlite3.OperationalError as error:
            raise RunIncomplete(
                f"cannot write {self.path}: {error}; is the disk full or the folder read-only? No judgment made so far is lost"
            ) from None
        except sqlite3.DatabaseError as error:
            raise EvalkitError(f"{self.path} is not a readable database of judgments ({error}); move it away to judge anew") from None

    def close(self) -> None:
        """Fold the write-ahead log into the file and release the lock."""
        with self._mutex:
            self._db.close()
        self._file.close()


def _digest(key: str, attempt: int, text: str) -> str:
    return hashlib.sha256(f"{key} {attempt} {text}".encode()).hexdigest()
