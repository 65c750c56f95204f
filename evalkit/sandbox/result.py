"""The outcome of a program."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    PASSED = "passed"
    FAILED = "failed"  # an assertion of the test is false
    ERROR = "error"  # an exception, an early exit, or an answer that is not plain data
    TIMEOUT = "timeout"  # of CPU time, or of the wall clock
    MEMORY = "memory"
    KILLED = "killed"  # by a signal that is not one of our limits
    REFUSED = "refused"  # too large, or stopped at a system call of another architecture


@dataclass(frozen=True, slots=True)
class Result:
    """A verdict and what was observed. `output` is stdout and stderr together, cut to Limits.output_bytes."""

    verdict: Verdict
    detail: str = ""  # one line: the false assertion, the exception's message, the limit, the signal
    error: str = ""  # the exception's type, if any (as the program reports it)
    output: str = ""
    output_bytes: int = 0  # written by the program; more than in `output` if that was cut
    cpu_seconds: float = 0.0  # user and system, of all its processes
    wall_seconds: float = 0.0
    memory_bytes: int = 0  # held by all its processes, at most (memory.py), as seen every 50 ms and at the end
    retried: bool = False  # timed out while others ran, then run again alone

    @property
    def passed(self) -> bool:
        return self.verdict is Verdict.PASSED
