"""Tasks that score answers made elsewhere, read from a file (`evalkit score TASK FILE`)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar


class ReadsAnswers(ABC):
    """A task that reads files of answers, of any kind of task."""

    given_protocol: ClassVar[str]  # takes the answers as they are; a protocol that is named (humaneval@codex) is applied instead

    @abstractmethod
    def read_answers(self, text: str, name: str) -> Mapping[str, Sequence[str]]:
        """The answers by document id in the text of the file called `name`. Raises DataError, which names the file."""
