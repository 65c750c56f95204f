"""A program's processes and their CPU time, from /proc: the kernel's limits are per process, the sandbox's for all of them together."""

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    cpu_seconds: float  # its own and that of children it has waited for


def descendants(root: int) -> list[Process]:
    """All descendants of a process that /proc shows, without `root` itself."""
    found = {process.pid: process for name in os.listdir("/proc") if name.isdecimal() and (process := _read(name))}
    below = {root}
    grown = True
    while grown:
        more = {pid for pid, process in found.items() if process.parent in below and pid not in below}
        grown = bool(more)
        below |= more
    return [found[pid] for pid in below if pid != root and pid in found]


def kill_descendants() -> None:
    """Kill until none is left. This process must be their subreaper, so that it inherits their orphans."""
    while left := descendants(os.getpid()):
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        for _ in range(100):
            try:
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    time.sleep(0.0002)
            except ChildProcessError:
                return


def _read(pid: str) -> Process | None:
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:  # it has just ended
        return None
    try:
        text = os.read(file, 4096)
    except OSError:
        return None
    finally:
        os.close(file)
    # after the command's name, which may contain anything, brackets included
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(int(pid), int(fields[1]), sum(map(int, fields[11:15])) / _TICK)
