"""Tasks whose answers are programs: the sandbox runs them, and the outcome is the score."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.tasks.requests import Response
from evalkit.tasks.task import UNSCORED, Doc, Scored, Task


@dataclass(frozen=True, slots=True)
class FunctionCheck:
    """prompt + completion defines the function `entry_point`; `test` defines check(candidate), which raises where it is wrong.

    `whole`: the completion is a program by itself, without the prompt. `found`: the answer held a program; where it did not, it is run as
    it is, and counted. `cpu_seconds`: what the program may take for the whole test, if not the sandbox's usual limit.
    """

    prompt: str
    completion: str
    test: str
    entry_point: str
    whole: bool = False
    found: bool = True
    cpu_seconds: float | None = None

    @property
    def program(self) -> str:
        return self.completion if self.whole else self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class Ran:
    """The outcome of a program: passed, failed (an assertion), error, timeout, memory, killed or refused; and one line on why."""

    verdict: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"

    def __str__(self) -> str:
        return f"{self.verdict}: {self.detail}" if self.detail else self.verdict


class CodeTask(Task):
    """A task whose answers are programs. It can be sampled: `--repeats` answers per document, at `--temperature`."""

    @abstractmethod
    def programs(self, doc: Doc, responses: Sequence[Response]) -> Sequence[FunctionCheck]:
        """The programs that decide about the responses to `requests(doc)`."""

    @abstractmethod
    def score_programs(self, doc: Doc, ran: Sequence[Ran]) -> Scored:
        """Score a document by the outcomes of its programs, in order; a pure function of them."""

    def score(self, doc: Doc, responses: Sequence[Response]) -> Scored:
        return UNSCORED
