"""A journal that something went over: no wrong answer is served, what is whole is kept, and one line says what happened."""

import contextlib
import functools
import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from fast_lm import FastLM

import evalkit.runner.run
from evalkit import cli
from evalkit.errors import EvalkitError
from evalkit.runner.journal import Journal
from evalkit.tasks import Generated, Loglikelihoods, Response

TOTAL = 300


@functools.cache
def answer(i: int) -> tuple[str, Response]:
    rng = random.Random(i)
    key = f"{rng.getrandbits(256):064x}"
    if i % 2:
        return key, Loglikelihoods(tuple(-rng.expovariate(1) for _ in range(4)), (True, False, False, False))
    return key, Generated("½ \0 " + rng.randbytes(rng.choice((20, 200, 3000))).hex(), "stop", i)


def put(journal: Journal, numbers: range) -> None:
    for i in numbers:
        key, response = answer(i)
        if journal.get(key) is None:
            journal.put(key, response, f"task {i % 3}", i / 2, 2, 1)


def held(journal: Journal) -> int:
    """How many answers are there; each is right."""
    found, seconds = 0, 0.0
    for i in range(TOTAL):
        key, response = answer(i)
        got = journal.get(key)
        assert got is None or got == response
        if got:
            found, seconds = found + 1, seconds + i / 2
    assert len(journal) == found
    spent = [journal.spent(f"task {t}") for t in range(3)]
    assert sum(each for each, _ in spent) == seconds
    assert [sum(tokens.computed for _, tokens in spent), sum(tokens.shared for _, tokens in spent)] == [found * 2, found]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "journal.sqlite"
    journal = Journal(path)
    put(journal, range(TOTAL))
    journal.close()
    return path


def opening(path: Path) -> EvalkitError | None:
    """What it says."""
    try:
        Journal(path).close()
    except EvalkitError as error:
        return error
    return None


def resumes(path: Path, least: int) -> str:
    """What the first opening says (empty: nothing). At the second there are `least` answers at least, and the rest can be put."""
    error = opening(path)
    said = str(error or "")
    if error:
        assert error.exit_code == 4, said
        assert "\n" not in said
        assert "run the same command again" in said
        assert path.with_suffix(".damaged").exists()
    journal = Journal(path)
    assert held(journal) >= least
    put(journal, range(TOTAL))
    assert held(journal) == TOTAL
    journal.close()
    return said


def test_flipped_bytes_anywhere(whole: Path, tmp_path: Path) -> None:
    rng, size = random.Random(3), whole.stat().st_size
    refused = mended = 0
    for number in range(30):
        path = tmp_path / str(number) / "journal.sqlite"
        path.parent.mkdir()
        shutil.copy(whole, path)
        content = bytearray(path.read_bytes())
        # a byte, a sector or a page; now and then in the first page, which says what all others are
        length = rng.choice((1, 1, 512, 4096))
        at = rng.randrange(4096 if number % 10 == 0 else size)
        for i in range(at, min(at + length, size)):
            content[i] ^= rng.randrange(1, 256)
        path.write_bytes(content)
        error = opening(path)
        if error and error.exit_code == 2:
            assert "has journal schema" in str(error)
            assert path.read_bytes() == content  # left as it is
            refused += 1
        else:
            mended += error is not None
            resumes(path, TOTAL - 150)
    assert mended > 15
    assert refused < 4


def test_a_cut_file_keeps_what_is_before_the_cut(whole: Path, tmp_path: Path) -> None:
    content = whole.read_bytes()
    for number, share in enumerate((0.3, 0.5, 0.9, 0.97)):
        path = tmp_path / str(number) / "journal.sqlite"
        path.parent.mkdir()
        path.write_bytes(content[: int(len(content) * share)])
        assert "was damaged" in resumes(path, int(TOTAL * (share - 0.2)))
    path.write_bytes(content[:5000])
    error = opening(path)
    assert error is not None
    assert "has no intact answer" in str(error)
    assert "--fresh" in str(error)
    assert error.exit_code == 2


def test_a_damaged_write_ahead_log_costs_its_last_answers_at_most(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    put(journal, range(100))
    journal.close()
    journal = Journal(tmp_path / "journal.sqlite")
    put(journal, range(100, 200))
    rng = random.Random(4)
    for number in range(20):  # as a kill leaves it, with a flipped byte
        folder = tmp_path / str(number)
        folder.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"journal.sqlite{suffix}", folder)
        content = bytearray((folder / "journal.sqlite-wal").read_bytes())
        content[rng.randrange(len(content))] ^= 255
        (folder / "journal.sqlite-wal").write_bytes(content)
        assert resumes(folder / "journal.sqlite", 100) == ""
    journal.close()


def test_an_answer_changed_in_the_file_is_not_served(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    shutil.copy(whole, path)
    key, _ = answer(7)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE responses SET response = replace(response, 'true', 'false') WHERE key = ?", (key,))
    reader = Journal(path, read_only=True)
    with pytest.raises(EvalkitError, match=r"is damaged.*run the command that made it again") as caught:
        reader.get(key)
    assert caught.value.exit_code == 2
    reader.close()
    assert f"the {TOTAL - 1} answers that are whole" in resumes(path, TOTAL - 1)


def test_another_sqlite_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(EvalkitError, match=r"is not a journal|is damaged") as caught:
            Journal(path, read_only=read_only)
        assert caught.value.exit_code == 2
    assert path.read_bytes() == before


def test_a_run_over_a_damaged_journal_says_so_then_ends_as_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fast_lm.SECONDS", 0.0001)
    monkeypatch.setattr(evalkit.runner.run, "open_lm", lambda config: FastLM(tmp_path / "log", {}))
    command = ["run", "--tasks", "mmlu,gsm8k", "--limit", "30", "--out", str(tmp_path), "--name", "r", "--quiet"]
    assert cli.main(command) == 0
    samples = {path.name: path.read_bytes() for path in (tmp_path / "r" / "samples").iterdir()}
    asked = (tmp_path / "log").read_text().splitlines()
    path = tmp_path / "r" / "journal.sqlite"
    content = bytearray(path.read_bytes())
    for at in range(3 * 4096, len(content), 4 * 4096):
        content[at + 2000] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    assert cli.main(command) == 4
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "was damaged" in line
    assert cli.main(command) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "r" / "samples").iterdir()} == samples
    again = (tmp_path / "log").read_text().splitlines()[len(asked) :]
    assert 0 < len(again) < len(asked) / 2
