"""Kill -9 while a table is reproduced, then the same command again: the same report, byte for byte but for times."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reproduce_tables import report_of, write_table

pytestmark = pytest.mark.usefixtures("one_thread")

CELLS = {"mmlu": "cloze", "gsm8k": "lm-eval", "humaneval": "codex"}


def test_killed_reproductions_end_with_the_same_report(tiny_model: Path, tmp_path: Path) -> None:
    kill_and_resume(tiny_model, tmp_path, kills=1, limit=7)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_five_points_of_a_longer_one(tiny_model: Path, tmp_path: Path) -> None:
    kill_and_resume(tiny_model, tmp_path, kills=5, limit=40)


def kill_and_resume(model: Path, tmp_path: Path, kills: int, limit: int) -> None:
    other = tmp_path / "other"
    other.symlink_to(model)  # a second model: the same weights under another name
    table = write_table(tmp_path / "table.toml", {"Tiny": ([str(model)], CELLS), "Other": ([str(other)], {"mmlu": "qwen"})})

    def command(out: Path) -> list[str]:
        arguments = ["reproduce", str(table), "--data", "sample", "--limit", str(limit), "--out", str(out), "--quiet"]
        return [sys.executable, "-m", "evalkit", *arguments]

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    undisturbed = tmp_path / "whole" / f"table-sample-limit{limit}"
    whole, total = report_of(undisturbed), answers(undisturbed)
    assert whole
    assert total > 2 * limit

    broken = tmp_path / "broken" / f"table-sample-limit{limit}"
    rng, killed = random.Random(0), 0
    # at random numbers of answers; the last time with all of them, while programs run or the report is written
    for target in [*sorted(rng.sample(range(1, total), kills - 1)), total]:
        process = subprocess.Popen(command(tmp_path / "broken"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and answers(broken) < target:
            time.sleep(0.005)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert killed == kills, "it ended before it could be killed"
    subprocess.run(command(tmp_path / "broken"), check=True, capture_output=True)
    assert report_of(broken) == whole


def answers(folder: Path) -> int:
    count = 0
    for journal in folder.glob("*/journal.sqlite"):
        try:
            with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as db:
                count += db.execute("SELECT count(*) FROM responses").fetchone()[0]
        except sqlite3.OperationalError:  # not there yet
            pass
    return count
