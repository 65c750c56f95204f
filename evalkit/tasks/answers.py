"""Tasks that score answers made elsewhere, read from a file (`evalkit score TASK FILE`)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from evalkit.tasks.task import Doc, Scored


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of a file, by document id. `protocol`: the one that their form asks for, "" for the task's `given_protocol`."""

    texts: Mapping[str, Sequence[str]]
    protocol: str = ""


class ReadsAnswers(ABC):
    """A task that reads files of answers in a layout of its own."""

    given_protocol: ClassVar[str]  # takes the answers as they are; a protocol that is named (humaneval@codex) is applied instead

    @abstractmethod
    def read_answers(self, text: str, name: str, docs: Sequence[Doc]) -> Answers:
        """The answers in the text of the file called `name` to some of `docs`. Raises DataError, which names the file."""


class ScoresTexts(ABC):
    """A task whose answers can be scored as texts: a solution, or the letter or text of an option."""

    given_protocol: ClassVar[str]  # how they are scored where no protocol is named

    @abstractmethod
    def question(self, doc: Doc) -> str:
        """What is asked: rows of a file may name a document by it."""

    @abstractmethod
    def score_text(self, doc: Doc, text: str) -> Scored:
        """The score of an answer made elsewhere; a pure function of the text."""
