"""The journal: what is put is there, whoever asks with the same key, and nobody else."""

import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from evalkit.errors import EvalkitError, RunIncomplete
from evalkit.record.schema import Tokens
from evalkit.runner.journal import Journal, request_key
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods

ASK = Loglikelihood("context", (" A", " B"))
ANSWER = Loglikelihoods((-0.1234567890123456789, -1e-300), (True, False), truncated=3, merged=1)


def test_responses_come_back_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    cut = Loglikelihoods((-1.0,), (True,), cut_by_protocol=5)
    text = Generated("lone \ud800 surrogate, NUL \0, \u2028", "stop", 7)
    journal = Journal(path)
    journal.put("a", ANSWER, "t", 1.5, 10, 5)
    journal.put("b", text, "t", 0.5, 1, 2)
    journal.put("cut", cut, "t", 0.0, 0, 0)
    journal.put("a", text, "t", 0, 0, 0)  # the first answer stays
    journal.close()
    again = Journal(path)
    assert again.get("a") == ANSWER
    assert again.get("b") == text
    assert again.get("cut") == cut
    assert again.get("c") is None
    assert again.spent("t") == (2.0, Tokens(11, 7))
    assert len(again) == 3
    again.close()


def test_whatever_changes_the_answer_changes_the_key() -> None:
    ask = Generate("context", ("stop",), 10)
    others = [
        replace(ask, context="context "),
        replace(ask, until=("stop", "x")),
        replace(ask, max_new_tokens=11),
        replace(ask, temperature=0.5),
        replace(ask, seed=1),
        replace(ask, max_total_tokens=10),
        ASK,
        replace(ASK, continuations=(" B", " A")),
        replace(ASK, truncate_above=5, truncate_to=4),
        replace(ASK, messages=(("user", "context"),)),
    ]
    keys = {request_key("sha256:a", r) for r in [ask, *others]} | {request_key("sha256:b", ask)}
    assert len(keys) == len(others) + 2


def test_keys_stay_as_they_were() -> None:
    """Journals outlive a version: a field that requests have gained, and that a request does not use, is not in its key."""
    assert request_key("sha256:a", ASK) == "435e721bfb011fba891195d0f82f661557925c31b3a231999d55473a7d03d1be"
    assert request_key("sha256:a", Generate("context", ("stop",), 10)) == "899bd01a3457f718f37e87c981d98c30fae14d92faea2dd29d9f98289dc5e7e5"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    for _ in range(2):  # asking does not overwrite who has it
        with pytest.raises(EvalkitError, match=rf"another evalkit process \(pid {os.getpid()}\) is writing"):
            Journal(tmp_path / "journal.sqlite")
    journal.close()
    Journal(tmp_path / "journal.sqlite").close()


def test_fresh_forgets_but_never_under_another_process(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    journal.put("a", ANSWER, "t", 0, 0, 0)
    with pytest.raises(EvalkitError, match="another evalkit process"):
        Journal(path, fresh=True)
    assert journal.get("a") == ANSWER
    journal.close()
    again = Journal(path, fresh=True)
    assert len(again) == 0
    again.close()


def test_a_foreign_or_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    foreign = b"not a database, but long enough to be read as one " * 100
    path.write_bytes(foreign)
    with pytest.raises(EvalkitError, match=r"journal\.sqlite is not a journal.*--fresh"):
        Journal(path)
    assert path.read_bytes() == foreign
    path.unlink()
    journal = Journal(path)
    journal.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = '99'")
    for read_only in (False, True):
        with pytest.raises(EvalkitError, match="schema 99"):
            Journal(path, read_only=read_only)


def test_a_missing_journal_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(EvalkitError, match="does not exist"):
        Journal(tmp_path / "journal.sqlite", read_only=True)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_what_was_answered(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    journal.put("a", ANSWER, "t", 0, 0, 0)
    journal._db.execute("PRAGMA max_page_count = 12")  # SQLite's own way to be full: the same error as ENOSPC's

    def fill() -> None:
        for i in range(100):
            journal.put(f"k{i}", Generated("x" * 4_000, "stop", 1), "t", 0, 0, 0)

    with pytest.raises(RunIncomplete, match="free some space"):
        fill()
    assert journal.get("a") == ANSWER
    journal.close()
    again = Journal(tmp_path / "journal.sqlite")
    assert again.get("a") == ANSWER
    assert again.get("k0") is not None
    again.close()


def test_a_reader_sees_what_a_killed_writer_put(tmp_path: Path) -> None:
    writer = Journal(tmp_path / "journal.sqlite")
    writer.put("a", ANSWER, "t", 0, 0, 0)
    copy = tmp_path / "copy"
    copy.mkdir()
    for suffix in ("", "-wal"):  # what is on the disk while the writer is at work
        shutil.copy(tmp_path / f"journal.sqlite{suffix}", copy)
    for path in (tmp_path, copy):
        reader = Journal(path / "journal.sqlite", read_only=True)
        assert reader.get("a") == ANSWER
        reader.close()
    writer.close()
