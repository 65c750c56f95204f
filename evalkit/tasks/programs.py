"""Programs that decide about an answer, run in the sandbox."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FunctionCheck:
    """prompt + completion defines the function `entry_point`; `test` defines check(candidate), which raises where it is wrong."""

    prompt: str
    completion: str
    test: str
    entry_point: str


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a program: passed, failed (an assertion), error, timeout, memory, killed or refused; and one line on why."""

    verdict: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"
