"""One attempt at a run: the real command line in a forked process, with the model put in its place, killed or failing on demand."""

import ctypes
import errno
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

# torch and the other late imports come here once for all attempts, which are forked
import torch  # noqa: F401
from fast_lm import BATCH, FastLM

import evalkit.cli
import evalkit.report.screen
import evalkit.runner.run
import evalkit.sandbox
from evalkit.data.sources import open_source
from evalkit.tasks.registry import resolve

RUNS = {
    "greedy": ["--tasks", "mmlu,gsm8k", "--limit", "40"],
    "sampled": ["--tasks", "humaneval", "--temperature", "0.8", "--repeats", "3", "--limit", "6"],
}
Answers = dict[str, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Fault:
    """The `nth` call that changes a file of the runs fails, or (`lasting`) all from there on; `error` 0: the process is killed there."""

    nth: int
    error: int = errno.ENOSPC
    lasting: bool = True


@dataclass(slots=True)
class Tally:
    """What all attempts together came to."""

    answered: int = 0  # by the model
    lost: int = 0  # of these: not in a journal when the attempt ended, so computed again
    most_lost: int = 0  # in one attempt
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended: its exit code (negative: the signal), its lines on stderr, the calls that were made to fail."""

    code: int
    lines: list[str]
    failed: list[str]
    seconds: float
    asked: int  # requests that the model answered
    lost: int  # of these answers: in no journal
    calls: int  # that change a file of the runs


class Bench:
    """Attempts at RUNS in folders below `root`, on the data of `data` (sample, or a folder)."""

    def __init__(self, root: Path, data: str):
        self.root, self.data = root, data
        docs = resolve("humaneval").load(open_source(data))
        self.solutions = {doc.fields["prompt"]: doc.fields["canonical_solution"] for doc in docs}
        self.shim = ctypes.CDLL(None) if hasattr(ctypes.CDLL(None), "shim_arm") else None

    def attempt(self, out: Path, tally: Tally, kill_after: float | None = None, fault: Fault | None = None) -> Ended:
        """Run, resume or (where `kill_after` seconds or a fault come first) try to, and hold what happened against the journals."""
        before = self.answers(out)
        scratch = self.root / "attempt"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            self._child(out, scratch, fault)
        if kill_after is not None:
            _wait(pid, started + kill_after)
        _, status = os.waitpid(pid, 0)
        seconds, log = time.monotonic() - started, _lines(scratch / "log")
        lost = self._hold(before, self.answers(out), log, tally)
        calls = int("".join(_lines(scratch / "calls")) or 0)
        code = os.waitstatus_to_exitcode(status)
        return Ended(code, _lines(scratch / "stderr"), _lines(scratch / "failed"), seconds, len(log), lost, calls)

    def _child(self, out: Path, scratch: Path, fault: Fault | None) -> None:
        """Never returns: whatever happens here, the process that forked goes on alone."""
        code = 0
        try:
            random.seed()
            for number, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(scratch / name, os.O_WRONLY | os.O_CREAT), number)
            evalkit.runner.run.open_lm = lambda config: FastLM(scratch / "log", self.solutions)  # type: ignore[assignment]
            if self.shim:
                report = os.open(scratch / "failed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                nth, error, lasting = (fault.nth, fault.error, fault.lasting) if fault else (0, 0, False)
                self.shim.shim_arm(os.fsencode(out), ctypes.c_long(nth), error, lasting, report)
            for name, arguments in RUNS.items():
                code = evalkit.cli.main(["run", *arguments, "--data", self.data, "--out", str(out), "--name", name, "--quiet"])
                if code:
                    break
            if self.shim:
                (scratch / "calls").write_text(str(self.shim.shim_calls()))
        except BaseException as error:
            code = 70
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(code)

    def answers(self, out: Path) -> Answers:
        """All rows of the journals, read from copies: a reader of the files themselves might mend what the next attempt is to find."""
        found: Answers = {}
        for name in RUNS:
            copy = self.root / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir()
            for suffix in ("", "-wal", "-journal"):
                if (file := out / name / f"journal.sqlite{suffix}").exists():
                    shutil.copy(file, copy / file.name)
            if (copy / "journal.sqlite").exists():
                db = sqlite3.connect(copy / "journal.sqlite")
                if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'responses'").fetchone():
                    found |= {key: (task, response) for key, task, response in db.execute("SELECT key, task, response FROM responses")}
                db.close()
        return found

    def _hold(self, before: Answers, after: Answers, log: list[str], tally: Tally) -> int:
        """Nothing that was in a journal is lost, changed or asked again; what was computed and is in none was in flight."""
        asked = set(log)
        lost = asked - after.keys()
        if not before.items() <= after.items():
            tally.problems.append(f"{len(before.items() - after.items())} recorded answers were lost or changed")
        if again := asked & before.keys():
            tally.problems.append(f"{len(again)} recorded answers were computed again")
        if len(asked) < len(log):
            tally.problems.append(f"{len(log) - len(asked)} answers were computed twice in one attempt")
        if not after.keys() - before.keys() <= asked:
            tally.problems.append("the journal holds answers that nobody computed")
        if len(lost) > BATCH:
            tally.problems.append(f"{len(lost)} answers were lost, {BATCH} at most were in flight")
        tally.answered += len(log)
        tally.lost += len(lost)
        tally.most_lost = max(tally.most_lost, len(lost))
        return len(lost)


def results(out: Path) -> dict[str, bytes]:
    """What the same run must give again, byte for byte."""
    folders = (folder for name in RUNS for folder in (out / name / "samples", out / name / "completions"))
    return {str(path.relative_to(out)): path.read_bytes() for folder in folders for path in sorted(folder.glob("*.jsonl"))}


def _wait(pid: int, until: float) -> None:
    """Kill at the given time, unless the process was faster."""
    while time.monotonic() < until:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(max(0.0, min(0.002, until - time.monotonic())))
    os.kill(pid, signal.SIGKILL)


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines() if path.exists() else []
