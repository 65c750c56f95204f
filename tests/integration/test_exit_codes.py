"""Exit codes: 5 for what nobody expected, with the traceback in a file; 4 for an engine that fails; 0 into a closed pipe; never 1."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import report_runs
import torch

from evalkit import cli
from evalkit.codec import encode
from evalkit.errors import EvalkitError, InternalError, keeping_traceback
from evalkit.lm.native import NativeLM

COMMANDS = {
    "run": "--tasks mmlu",
    "merge": "shard-1 shard-2",
    "reproduce": "smollm2",
    "score": "humaneval answers.jsonl",
    "judge": "run --judge-model gpt-4",
    "correct": "run --labels labels.jsonl",
    "ls": "tasks",
    "data": "status",
    "report": "",
    "params": "",
    "compare": "base cand",
    "gate": "base cand",
    "audit": "gate.bundle",
    "view": "run",
    "export": "run --to hub",
    "verify": "--tasks mmlu",
    "fidelity": "reference copy --tasks mmlu",
    "bench": "",
    "generate": "--prompt Hi",
    "upcycle": "source dest",
    "quantize": "source dest.gguf --format gguf:q8_0",
    "serve": "",
    "completion": "bash",
    "help": "",
}


class Panic(BaseException):
    """As pyo3's, which is no Exception."""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory, the test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def raising(error: BaseException) -> Any:
    def raises(*_: Any) -> None:
        raise error

    return raises


def traceback_of(line: str) -> Path:
    """The file that the one line names; only its owner can read it."""
    assert line.count("\n") == 1
    found = re.search(r"the traceback is in (\S+?\.txt)", line)
    assert found, line
    file = Path(found[1])
    assert file.stat().st_mode & 0o777 == 0o600
    return file


def test_every_command_is_here() -> None:
    (actions,) = (action.choices for action in cli._parser()._actions if isinstance(action.choices, dict))
    assert list(actions) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unexpected_exception_ends_with_5(
    name: str, temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.import_module(f"evalkit.cli.{name}"), f"_{name}", raising(ZeroDivisionError("by\nnothing")))
    assert cli.main([name, *shlex.split(COMMANDS[name])]) == 5
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("evalkit: internal error: ZeroDivisionError: by;")
    file = traceback_of(err)
    assert file.parent == temporary
    assert "Traceback (most recent call last)" in file.read_text()
    assert "in raises" in file.read_text()


@pytest.mark.parametrize("error", [SystemExit(1), SystemExit(0), Panic("in Rust"), MemoryError(), RecursionError()], ids=repr)
def test_whatever_is_raised(error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("evalkit.cli.ls._ls", raising(error))
    assert cli.main(["ls", "tasks"]) == 5
    assert type(error).__name__ in traceback_of(capsys.readouterr().err).read_text()


def test_a_broken_installation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delattr("evalkit.cli.view", raising=False)
    monkeypatch.setitem(sys.modules, "evalkit.cli.view", None)
    assert cli.main(["ls", "tasks"]) == 5
    assert "import of evalkit.cli.view halted" in capsys.readouterr().err


def test_the_process_ends_so_too(tmp_path: Path) -> None:
    code = "import evalkit.cli.ls as ls; ls._ls = lambda arguments: 1 / 0; import runpy; runpy.run_module('evalkit', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, "ls", "tasks"], capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 5
    assert "ZeroDivisionError" in traceback_of(done.stderr).read_text()


@pytest.mark.parametrize("command", ["ls protocols", "ls tasks", "params", "--help"])
def test_a_closed_pipe_is_no_fault(command: str) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([sys.executable, "-m", "evalkit", *shlex.split(command)], stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["report", "ls tasks", "help run", "run --help", "--version"])
def test_standard_output_on_a_full_disk(command: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "evalkit", *shlex.split(command)], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    line = "evalkit: the disk that the output is written to is full; free some space and run the same command again\n"
    assert done.stderr == line


@pytest.mark.parametrize(("command", "code"), [("ls protocols", 0), ("--help", 0), ("ls bogus", 2), ("compare none none", 2)])
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_change_no_exit_code(command: str, code: int, closed: str) -> None:
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m evalkit {command} {closed}"], capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert not done.stdout or closed == "2>&-"


def test_a_terminal_without_the_letter(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(encode(report_runs.run("größe", mmlu=report_runs.entry(0.5)))))
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "evalkit", "ls", "runs", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, "gr??e" in done.stdout) == (0, True), done.stderr


def test_the_traceback_lies_in_the_runs_folder(tmp_path: Path, temporary: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(InternalError, match="the traceback is in") as early, keeping_traceback(run):
        raise KeyError("early")
    assert traceback_of(f"{early.value}\n").parent == temporary  # there is no run yet
    run.mkdir()
    with pytest.raises(InternalError) as late, keeping_traceback(run):
        raise KeyError("late")
    assert traceback_of(f"{late.value}\n").parent == run


def test_no_folder_for_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(InternalError, match="KeyError: 'k'; the traceback could not be written"), keeping_traceback():
        raise KeyError("k")


def test_no_temporary_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where every disk is full, not even Python finds one."""
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [str(tmp_path / "gone")])
    with pytest.raises(InternalError, match="KeyError: 'k'; the traceback could not be written"), keeping_traceback():
        raise KeyError("k")


def test_an_error_that_cannot_be_printed() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    with pytest.raises(InternalError, match="internal error: Mute; the traceback is in"), keeping_traceback():
        raise Mute


@pytest.mark.parametrize("error", [EvalkitError("known"), KeyboardInterrupt(), SystemExit(2)], ids=repr)
def test_what_is_expected_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, keeping_traceback():
        raise error
    assert caught.value is error


# --- an engine that fails ----------------------------------------------------------------------------------------------


def run(tiny_model: Path, out: Path, tasks: str = "mmlu@cloze") -> int:
    command = ["run", "--tasks", tasks, "--model", str(tiny_model), "--data", "sample", "--limit", "2", "--name", "r", "--out", str(out)]
    return cli.main(command)


def samples(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((out / "r" / "samples").iterdir())}


ERRORS = [
    MemoryError(),
    RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"),
    OSError(5, "Input/output error"),
    BrokenPipeError(32, "Broken pipe"),
    SystemExit(1),
    Panic("in Rust"),
]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", ["open", "_read", "loglikelihood"])
def test_an_engine_that_fails_ends_with_4(
    step: str, error: BaseException, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(NativeLM, step, raising(error))
    assert run(tiny_model, tmp_path) == 4
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"evalkit: the engine failed ({type(error).__name__}")
    file = traceback_of(f"{line}\n")
    assert file.parent == tmp_path / "r"
    assert "in raises" in file.read_text()


@pytest.mark.usefixtures("one_thread")
def test_a_run_goes_on_where_its_engine_failed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks, whole = "mmlu@cloze,gsm8k@lm-eval", NativeLM.generate
    assert run(tiny_model, tmp_path / "undisturbed", tasks) == 0

    def fails(lm: NativeLM, requests: Any) -> Iterator[Any]:
        for count, answer in enumerate(whole(lm, requests)):
            if count == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            yield answer

    with monkeypatch.context() as patched:
        patched.setattr(NativeLM, "generate", fails)
        assert run(tiny_model, tmp_path, tasks) == 4
    line = capsys.readouterr().err.splitlines()[-1]
    assert "the engine failed (OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.)" in line
    assert f"3 answers are kept in {tmp_path / 'r'}, run the same command again to go on" in line  # two of MMLU, one of GSM8K
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert (record["status"], list(record["tasks"])) == ("incomplete", ["mmlu"])
    assert run(tiny_model, tmp_path, tasks) == 0
    assert "gsm8k@lm-eval: 1 of 2 answers were in the journal" in capsys.readouterr().err
    assert samples(tmp_path) == samples(tmp_path / "undisturbed")


@pytest.mark.usefixtures("one_thread")
def test_a_fault_of_ours_in_a_run(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("evalkit.runner.run.score_docs", raising(IndexError("ours")))
        assert run(tiny_model, tmp_path) == 5
    file = traceback_of(capsys.readouterr().err.splitlines()[-1] + "\n")
    assert file.parent == tmp_path / "r"
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "incomplete"
    assert run(tiny_model, tmp_path) == 0


def test_code_of_ones_own_that_closes_standard_output_does_not_end_as_a_failed_gate(tiny_csv: Path, tmp_path: Path) -> None:
    model = tmp_path / "closes.py"
    model.write_text(
        "import sys\n\n\nclass M:\n"
        "    def loglikelihood(self, requests):\n        sys.stdout.close()\n"
        "        return [[(-1.0, True)] * len(request.continuations) for request in requests]\n\n"
        "    def loglikelihood_rolling(self, texts):\n        return [0.0 for _ in texts]\n\n"
        "    def generate(self, requests):\n        return ['' for _ in requests]\n"
    )
    command = [sys.executable, "-m", "evalkit", "run", "--tasks", str(tiny_csv), "--engine", f"python:{model}:M", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def tiny_csv(tmp_path: Path) -> Path:
    file = tmp_path / "letters.csv"
    file.write_text("question,A,B,answer\nWhich is first?,a,b,A\n")
    return file
