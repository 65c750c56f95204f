"""Tasks whose answers a judge rates: a language model that reads the conversation (`evalkit judge RUN`)."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from evalkit.tasks.requests import Request, Response
from evalkit.tasks.tables import TextFile
from evalkit.tasks.task import UNSCORED, Doc, Scored, Task


class JudgedTask(Task):
    """A task of conversations. The answers are made by a run; its samples are unscored until a judge has rated them."""

    judge_prompts: ClassVar[TextFile]  # what a judge is asked

    @abstractmethod
    def follow_up(self, doc: Doc, responses: Sequence[Response]) -> Sequence[Request]:
        """What is asked next, once everything before is answered (`responses`, in order); empty after the last turn."""

    def requests(self, doc: Doc) -> Sequence[Request]:
        return self.follow_up(doc, ())

    def score(self, doc: Doc, responses: Sequence[Response]) -> Scored:
        return UNSCORED
