"""A run's folder that can't be written, or that another process has: one line, and what is there can still be read."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fast_lm import FastLM

import evalkit.runner.run
from evalkit import cli
from evalkit.runner.journal import Journal

TASKS = ["--tasks", "gsm8k@qwen", "--data", "sample", "--limit", "12", "--quiet"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A complete run."""
    monkeypatch.setattr("fast_lm.SECONDS", 0.0001)
    with monkeypatch.context() as patch:
        patch.setattr(evalkit.runner.run, "open_lm", lambda config: FastLM(tmp_path / "log", {}))
        assert cli.main(["run", *TASKS, "--out", str(tmp_path / "runs"), "--name", "r"]) == 0
    return tmp_path / "runs" / "r"


def test_two_processes_on_one_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holder = "import sys, time; from pathlib import Path; from evalkit.runner.journal import Journal; j = Journal(Path(sys.argv[1]));"
    holder += "print('open', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", holder, str(run / "journal.sqlite")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        assert cli.main(["run", *TASKS, "--out", str(run.parent), "--name", "r", "--fresh"]) == 2
        line = capsys.readouterr().err
        process.kill()
    assert f"another evalkit process (pid {process.pid}) is writing {run}" in line
    assert line.count("\n") == 1
    journal = Journal(run / "journal.sqlite")  # killed, it let go
    assert len(journal) == 12
    journal.close()


def test_a_read_only_folder_is_refused_and_can_be_replayed(run: Path, tmp_path: Path) -> None:
    enter = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    mount = f"mount --bind {run} {run} && mount -o remount,ro,bind {run}"
    if not shutil.which("unshare") or subprocess.run([*enter, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("mounting a read-only folder is not allowed here")

    def evalkit(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "evalkit", "run", *TASKS, *arguments]
        return subprocess.run([*enter, "sh", "-c", f'{mount} && exec "$@"', "sh", *command], capture_output=True, text=True)

    refused = evalkit("--out", str(run.parent), "--name", "r")
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr == f"evalkit: cannot write {run}: Read-only file system; give --out a path in a writable folder\n"
    replayed = evalkit("--engine", f"replay:{run}", "--out", str(tmp_path), "--name", "again")
    assert replayed.returncode == 0, replayed.stderr
    assert (tmp_path / "again" / "samples" / "gsm8k.jsonl").read_bytes() == (run / "samples" / "gsm8k.jsonl").read_bytes()


def test_another_extraction_of_the_same_answers_needs_no_model(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_model(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("evalkit.lm.native.NativeLM.open", no_model)
    tasks = ["--tasks", "gsm8k@qwen-fixed", *TASKS[2:], "--engine", f"replay:{run}"]
    # elsewhere, and in the run's own folder, whose journal then answers
    for out, name in ((tmp_path, "fixed"), (run.parent, "r")):
        assert cli.main(["run", *tasks, "--out", str(out), "--name", name]) == 0
    first, second = (folder / "samples" / "gsm8k.jsonl" for folder in (tmp_path / "fixed", run))
    assert first.read_bytes() == second.read_bytes()
    assert len((tmp_path / "log").read_text().splitlines()) == 12
