"""Tasks whose answers a judge rates: a language model that reads the conversation (`evalkit judge RUN`).

All that belongs to one judged benchmark is in its JudgedTask; evalkit.judge asks, stores, counts and averages for any of them.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from evalkit.hashing import sha256_json
from evalkit.tasks.prompt_form import Form
from evalkit.tasks.requests import Generate, Generated, Request, Response
from evalkit.tasks.tables import TextFile
from evalkit.tasks.task import UNSCORED, Doc, Protocol, Scored, Task

READERS = ("published", "strict")  # how a judge's text is read: as the benchmark's authors do, or as a person would


@dataclass(frozen=True, slots=True)
class Conversation:
    """One question's turns and the model's answers to them. `reference`: a reference answer per turn, () where there are none."""

    question_id: str
    category: str
    turns: Sequence[str]
    answers: Sequence[str]
    reference: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """What a judge is asked about one turn (from 1): (role, content) messages. `name` says which of the benchmark's prompts it is."""

    turn: int
    name: str
    messages: tuple[tuple[str, str], ...]


class JudgedTask(Task):
    """A task of conversations. A run makes the answers; its samples are unscored until a judge has rated them.

    A document's fields hold `turns` (list of texts) and, where there are any, `reference` answers; the protocol's settings hold
    `max_new_tokens`.
    """

    title: ClassVar[str]  # in reports
    judge_prompts: ClassVar[TextFile]  # what a judge is asked; its digest is part of the figure
    scale: ClassVar[tuple[float, float]]  # the worst and the best rating
    categories: ClassVar[Sequence[str]] = ()  # their order in reports, before any others
    judgment_files: ClassVar[Literal["", "fastchat"]] = ""  # whose files are written beside run.json and read by `evalkit score`

    @abstractmethod
    def rating_prompts(self, conversation: Conversation, prompts: str) -> Sequence[JudgePrompt]:
        """What a judge is asked about one conversation, in order of turns; `prompts` is the text of `judge_prompts`. Raises DataError."""

    @abstractmethod
    def published_rating(self, text: str) -> float | None:
        """The rating in a judge's text as the benchmark's authors read it; None where there is none."""

    def strict_rating(self, text: str) -> float | None:
        """The rating as a person would read it, within the scale."""
        rating = self.published_rating(text)
        low, high = self.scale
        return rating if rating is not None and low <= rating <= high else None

    def comparison_prompts(self, first: Conversation, second: Conversation, prompts: str) -> Sequence[JudgePrompt]:
        """The same for two models' answers, `first` shown first; empty where the benchmark has no pairwise comparison."""
        return ()

    def published_verdict(self, text: str) -> str | None:
        """The better answer in a judge's text, "A", "B" or "tie", as the benchmark's authors read it; None where there is none."""
        return None

    def strict_verdict(self, text: str) -> str | None:
        """The better answer as a person would read it."""
        return self.published_verdict(text)

    def rating(self, text: str | None, reader: str) -> float | None:
        """The rating in a judge's text; None for no text, and for a rating that is not on the scale: it says nothing of the answer."""
        read = {"published": self.published_rating, "strict": self.strict_rating}
        return None if text is None else self.on_scale(read[reader](text))

    def on_scale(self, rating: float | None) -> float | None:
        """The rating; None where it lies outside the scale."""
        low, high = self.scale
        return rating if rating is not None and low <= rating <= high else None

    def verdict(self, text: str | None, reader: str) -> str | None:
        """The verdict in a judge's text; None also for no text."""
        read = {"published": self.published_verdict, "strict": self.strict_verdict}
        return None if text is None else read[reader](text)

    def rated_turns(self, turns: Sequence[str]) -> range:
        """The turns that a judge rates, from 1."""
        return range(1, len(turns) + 1)

    def temperature(self, doc: Doc) -> float:
        """Of the model's answers."""
        return 0.0

    @classmethod
    def in_form(cls, protocol: Protocol, form: Form) -> Protocol:
        return protocol if form == Form(chat=True) else super().in_form(protocol, form)  # it is a conversation

    def requests(self, doc: Doc) -> Sequence[Request]:
        return self.follow_up(doc, ())

    def follow_up(self, doc: Doc, responses: Sequence[Response]) -> Sequence[Request]:
        """The next turn, once those before are answered (`responses`, in order); empty after the last."""
        turns = doc.fields["turns"]
        if len(responses) == len(turns):
            return ()
        messages: list[tuple[str, str]] = []
        for turn, response in zip(turns, responses, strict=False):
            assert isinstance(response, Generated)
            messages += [("user", turn), ("assistant", response.text.strip())]
        messages.append(("user", turns[len(responses)]))
        temperature = self.temperature(doc)
        # there is one greedy answer, whatever the seed; every sampled one has a seed of its own
        seed = int(sha256_json([self.name, self.sampling.seed, doc.id, len(responses)])[:8], 16) if temperature else 0
        return [Generate("", (), self.protocol.settings["max_new_tokens"], temperature, seed, tuple(messages))]

    def score(self, doc: Doc, responses: Sequence[Response]) -> Scored:
        return UNSCORED
