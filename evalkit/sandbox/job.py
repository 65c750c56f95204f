"""A job: what a worker runs."""

from dataclasses import dataclass, field
from typing import Any

from evalkit.sandbox.limits import Limits

MAX_SOURCE = 1 << 20  # characters; larger programs are refused (as JSON they must fit a frame)


@dataclass(frozen=True, slots=True)
class Job:
    """A bare program, or with an entry point a program that defines that function and the test that calls it.

    The test is text that defines `check(candidate)`. Its helpers other than the function come from `prompt`.
    """

    program: str
    entry_point: str = ""
    prompt: str = ""
    test: str = ""
    limits: Limits = field(default_factory=Limits)

    def frames(self) -> list[dict[str, Any]]:
        """The frames that the checker reads. The jail is started from the first before the second is read."""
        return [{"program": self.program, "function": self.entry_point}, {"prompt": self.prompt, "test": self.test}]
