"""A run that is ended from outside: a second Ctrl-C, a closed terminal, a folder that is moved away. What was answered is kept and said."""

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evalkit import cli
from evalkit.errors import RunIncomplete
from evalkit.runner import asking
from evalkit.runner import run as runner

pytestmark = pytest.mark.usefixtures("one_thread")


def run(tiny_model: Path, out: Path) -> int:
    command = ["run", "--tasks", "mmlu", "--model", str(tiny_model), "--data", "sample", "--limit", "5", "--name", "r", "--quiet"]
    return cli.main([*command, "--out", str(out)])


def after_three(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], Any]) -> None:
    """Let something happen once three answers are kept."""
    original = asking._ask

    def ask(lm: Any, requests: Any) -> Iterator[Any]:
        for count, answer in enumerate(original(lm, requests)):
            if count == 3:
                happen()
            yield answer

    monkeypatch.setattr(asking, "_ask", ask)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def kept(folder: Path) -> int:
    with sqlite3.connect(folder / "journal.sqlite") as db:
        (count,) = db.execute("SELECT count(*) FROM responses").fetchone()
    return int(count)


def test_a_second_ctrl_c(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patch:
        after_three(patch, interrupt)
        patch.setattr(runner, "write_run", interrupt)
        assert run(tiny_model, tmp_path) == 4
    assert "interrupted again, before run.json was written; the answers are kept in" in capsys.readouterr().err
    assert kept(tmp_path / "r") == 3
    assert run(tiny_model, tmp_path) == 0


def test_a_run_that_cannot_be_written_keeps_its_answers(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RunIncomplete("the disk is full")

    monkeypatch.setattr(runner, "write_run", full)
    assert run(tiny_model, tmp_path) == 4
    assert kept(tmp_path / "r") == 5


def test_a_closed_terminal(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        after_three(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert run(tiny_model, tmp_path) == 4
        assert "interrupted; 3 answers are kept" in capsys.readouterr().err
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_under_nohup_a_closed_terminal_ends_nothing(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        after_three(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert run(tiny_model, tmp_path) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_folder_that_is_moved(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        after_three(patch, lambda: (tmp_path / "r").rename(tmp_path / "elsewhere"))
        assert run(tiny_model, tmp_path) == 4
    assert "r was moved or removed while the run wrote to it" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    assert kept(tmp_path / "elsewhere") >= 3
    (tmp_path / "elsewhere").rename(tmp_path / "r")
    assert run(tiny_model, tmp_path) == 0
