"""The short form of kill_workers.py, and a worker that hangs."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fast_lm import FastLM
from fast_worker import LOG, SECONDS

from evalkit.config import ModelSpec
from evalkit.tasks import Generate
from evalkit.workers.pool import WorkersLM
from evalkit.workers.processes import Processes

HERE = Path(__file__).parent


def figures(*arguments: str) -> dict[str, int]:
    done = subprocess.run([sys.executable, str(HERE / "kill_workers.py"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_three_kills_of_workers_and_drivers() -> None:
    found = figures("--kills", "3", "--runs", "greedy")
    assert found["kills"] == 3
    assert found["problems"] == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills_of_workers_and_drivers() -> None:
    found = figures("--kills", "50")
    assert found["problems"] == 0
    assert min(found["worker"], found["driver"]) > 0


@pytest.fixture
def fast_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers with the fast model; returns its log."""
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    monkeypatch.setenv(SECONDS, "0.01")
    monkeypatch.setattr(Processes, "command", (sys.executable, str(HERE / "fast_worker.py")))
    return tmp_path / "log"


def questions(count: int) -> list[Generate]:
    return [Generate(f"What is {i}?", (), 8) for i in range(count)]


def test_processes_answer_as_one_does_and_end_with_their_driver(fast_workers: Path, tmp_path: Path) -> None:
    lm = WorkersLM(Processes(ModelSpec(), 2, tmp_path / "workers"), ModelSpec(), 2, lambda text: None)
    found = dict(lm.generate(questions(60)))
    assert found == dict(FastLM(tmp_path / "own", {}).generate(questions(60)))
    processes = [place.link.process for place in lm.places if place.link]  # type: ignore[attr-defined]
    lm.close()
    assert all(process.returncode is not None for process in processes)
    assert sorted(file.name for file in (tmp_path / "workers").iterdir()) == ["1.log", "2.log"]


def test_workers_that_hang_or_are_killed_are_replaced(fast_workers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit.workers.pool.SILENCE", 3.0)  # twenty in earnest; a sign of life comes every two
    said: list[str] = []
    lm = WorkersLM(Processes(ModelSpec(), 2, tmp_path / "workers"), ModelSpec(), 2, said.append)
    for number, end in enumerate((signal.SIGSTOP, signal.SIGKILL)):
        requests, process = questions(120)[60 * number :][:60], None
        found = set()
        for i, _ in lm.generate(requests):
            found.add(i)
            if len(found) == 5:
                process = lm.places[number].link.process  # type: ignore[union-attr]
                process.send_signal(end)
        assert found == set(range(60))
        assert process
        assert process.returncode == -signal.SIGKILL
    assert any("worker 1 is lost: no sign of life for 3 s" in text for text in said)
    assert any("worker 2 is lost: killed by SIGKILL" in text for text in said)
    lm.close()
