"""One job, supervised from outside: its limits, its output, its end and its verdict.

    supervisor (the server) -> checker: reads the job, starts the jail, runs the test
                                 -> jail's init -> program

The supervisor reads only limits and verdicts, so no test's text is in the memory that the next program's process is forked from.
"""

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NoReturn

from evalkit.sandbox import checker, jail, memory, tree, usage, wire
from evalkit.sandbox.level import Level
from evalkit.sandbox.limits import Limits
from evalkit.sandbox.result import Verdict

_LOOK_EVERY = 0.05  # seconds between measurements of what the program has used
_CHECKER_LIMITS = Limits(cpu_seconds=90, memory_bytes=4 << 30, processes=1)
_PIPE_BYTES = 1 << 20


class HostGone(Exception):
    """The host is gone, and with it the need for a result."""


def supervise(job: int, limits: Limits, level: Level, host: int) -> dict[str, Any]:
    """Run the job in a file. Returns a Result's fields, or {"broken": why the sandbox failed}; raises HostGone."""
    with _scratch(level) as scratch, ExitStack() as files:
        pipes = [os.pipe() for _ in range(3)]
        for read, _ in pipes:
            files.callback(os.close, read)
        checker_pid = os.fork()
        if checker_pid == 0:
            _check(job, limits, level, scratch, *(write for _, write in pipes))
        for _, write in pipes:
            os.close(write)
        run = _Run(checker_pid, limits, level, *(read for read, _ in pipes))
        try:
            run.watch(host)
        finally:
            run.end()
        return run.result()


@contextmanager
def _scratch(level: Level) -> Iterator[str]:
    """Where a program may write: its own mount, or without one a folder of the host."""
    if level.has("namespaces"):
        yield tree.SCRATCH
        return
    import tempfile

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield folder


def _check(job: int, limits: Limits, level: Level, scratch: str, verdicts: int, status: int, output: int) -> NoReturn:
    """Start the program and check it. The process that it is forked from has not read the test yet."""
    try:
        for target in (1, 2):
            os.dup2(0, target)  # /dev/null: nothing in here reaches the host's terminal
        (requests_r, requests), (answers, answers_w) = os.pipe(), os.pipe()
        program = wire.receive(job)
        jail.start(program, limits, level, scratch, jail.Ends(status, output, requests_r, answers_w))
        texts = wire.receive(job)
        jail.keep(verdicts, requests, answers)
        _CHECKER_LIMITS.apply()
        jail.lock(level)
        wire.send(verdicts, checker.check(program, texts, checker.Candidate(requests, answers)))
        while True:
            signal.pause()  # the jail ends with this process, and its usage is still to be read
    except BaseException as error:
        wire.send(verdicts, {"broken": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(1)


class _Run:
    def __init__(self, checker_pid: int, limits: Limits, level: Level, verdicts: int, status: int, output: int):
        self._checker_pid, self._limits, self._verdicts, self._status = checker_pid, limits, verdicts, status
        self._jailed = level.has("namespaces")
        self._output = _Output(output, limits.output_bytes)
        self._frames: dict[int, dict[str, Any]] = {}  # what the checker and init have sent, {} if they ended without sending anything
        self._over: dict[str, Any] = {}
        self._started = time.monotonic()
        self._cpu, self._memory, self._wall = 0.0, 0, 0.0

    def watch(self, host: int) -> None:
        """Wait until there is a verdict, or no process left that could give one."""
        poll = select.poll()
        poll.register(host, select.POLLRDHUP)
        for fd in (self._output.fd, self._verdicts, self._status):
            poll.register(fd, select.POLLIN)
        look = self._started + _LOOK_EVERY
        while not self._over and not self._frames.get(self._verdicts) and len(self._frames) < 2:
            for fd, _ in poll.poll(_LOOK_EVERY * 1000):
                if fd == host:
                    raise HostGone
                if fd != self._output.fd:
                    self._frames[fd] = _frame(fd)
                    poll.unregister(fd)
                elif not self._output.read():
                    poll.unregister(fd)
            now = time.monotonic()
            if now >= look:
                self._hold_limits(now)
                look = now + _LOOK_EVERY

    def _hold_limits(self, now: float) -> None:
        held = self._look()
        if self._cpu > self._limits.cpu_seconds:
            self._over = self._timeout()
        elif held > self._limits.memory_bytes:
            self._over = self._out_of_memory()
        elif now - self._started > self._limits.wall_seconds:
            self._over = {"verdict": Verdict.TIMEOUT, "detail": f"more than {self._limits.wall_seconds:g} s on the clock"}

    def _look(self) -> int:
        """Count the CPU time used so far; returns the memory held now, in bytes."""
        below = [process for process in usage.descendants(os.getpid()) if process.pid != self._checker_pid]
        self._cpu = max(self._cpu, sum(process.cpu_seconds for process in below))
        pids = [process.pid for process in below]
        held = memory.held(pids, self._jailed)
        # a fork's pages are its parent's until one of them writes; what init and the program have in common is little
        if held > self._limits.memory_bytes and len(pids) > 2:
            held = memory.held(pids, self._jailed, exact=True)
        self._memory = max(self._memory, held)
        return held

    def _timeout(self) -> dict[str, Any]:
        return {"verdict": Verdict.TIMEOUT, "detail": f"more than {self._limits.cpu_seconds:g} s of CPU time"}

    def _out_of_memory(self) -> dict[str, Any]:
        return {"verdict": Verdict.MEMORY, "detail": f"more than {self._limits.memory_bytes:,} bytes, all processes together"}

    def end(self) -> None:
        """Kill what is left, and add up what all of it has used."""
        self._wall = time.monotonic() - self._started
        self._look()  # before the kill: the kernel drops the time of processes that it kills with their init
        usage.kill_descendants()
        self._output.drain()

    def result(self) -> dict[str, Any]:
        """A Result's fields."""
        status, said = self._frames.get(self._status, {}), self._frames.get(self._verdicts, {})
        for frame in (status, said):
            if "broken" in frame:
                return frame
        verdict = self._over or said or self._ended(status.get("code"))
        if self._cpu > self._limits.cpu_seconds and verdict["verdict"] != Verdict.TIMEOUT:
            verdict = self._timeout()  # it ended between two measurements
        elif self._memory > self._limits.memory_bytes and not self._over:
            verdict = self._out_of_memory()
        return {
            **verdict,
            "output": self._output.text(),
            "output_bytes": self._output.total,
            "cpu_seconds": self._cpu,
            "wall_seconds": self._wall,
            "memory_bytes": self._memory,
        }

    def _ended(self, code: int | None) -> dict[str, Any]:
        """The verdict on a program that has ended without an answer."""
        if code is None:
            return {"verdict": Verdict.KILLED, "detail": "everything in the jail was killed"}
        if code >= 0:
            return {"verdict": Verdict.ERROR, "error": "Exit", "detail": f"left with exit code {code} before its end"}
        if -code == signal.SIGSYS:
            return {"verdict": Verdict.REFUSED, "detail": "a system call of another architecture"}
        named = {each.value: each.name for each in signal.Signals}  # real-time signals have no names
        return {"verdict": Verdict.KILLED, "detail": named.get(-code, f"signal {-code}")}


def _frame(fd: int) -> dict[str, Any]:
    """What the checker or init has sent, {} at its end. Neither stalls in the middle of a frame."""
    try:
        frame: dict[str, Any] = wire.receive(fd)
        return frame
    except wire.Ended:
        return {}


class _Output:
    """A program's output: the start is kept; the rest is counted and discarded without being copied to this process."""

    def __init__(self, fd: int, keep: int):
        self.fd, self._left, self._kept, self.total = fd, keep, bytearray(), 0

    def read(self) -> bool:
        """Read what is there, waiting if there is nothing; False at the end."""
        if self._left:
            data = os.read(self.fd, min(self._left, 1 << 16))
            self._kept += data
            self._left -= len(data)
            count = len(data)
        else:
            count = os.splice(self.fd, _nowhere(), _PIPE_BYTES)
        self.total += count
        return count > 0

    def drain(self) -> None:
        """Read the rest, once all writers are gone."""
        os.set_blocking(self.fd, False)
        try:
            while self.read():
                pass
        except BlockingIOError:
            pass

    def text(self) -> str:
        return self._kept.decode(errors="replace")


@cache
def _nowhere() -> int:
    return os.open("/dev/null", os.O_WRONLY)
