"""The judgments to ask for: every rated turn of every conversation, as many times as there are repeats."""

from collections.abc import Mapping
from dataclasses import dataclass

from evalkit.tasks import Conversation, JudgedTask, JudgePrompt


@dataclass(frozen=True, slots=True)
class Ask:
    """One judgment to ask for. `turn` counts from 1; `order` is "" or, of two answers, "ab" (ours first) or "ba"."""

    question_id: str
    category: str
    turn: int
    repeat: int
    order: str
    prompt: str
    messages: tuple[tuple[str, str], ...]

    @property
    def user_prompt(self) -> str:
        return self.messages[-1][1]


def single(task: JudgedTask, conversations: Mapping[str, Conversation], prompts: str, repeats: int) -> list[Ask]:
    """Single-answer grading: one ask per rated turn."""
    return [
        _ask(conversation, prompt, repeat)
        for repeat in range(repeats)
        for conversation in conversations.values()
        for prompt in task.rating_prompts(conversation, prompts)
    ]


def pairwise(
    task: JudgedTask, ours: Mapping[str, Conversation], theirs: Mapping[str, Conversation], prompts: str, repeats: int
) -> list[Ask]:
    """Pairwise comparison: two asks per rated turn, one after the other, each answer first once. Both hold the same questions."""
    return [
        ask
        for repeat in range(repeats)
        for question_id, conversation in ours.items()
        for ab, ba in zip(
            task.comparison_prompts(conversation, theirs[question_id], prompts),
            task.comparison_prompts(theirs[question_id], conversation, prompts),
            strict=True,
        )
        for ask in (_ask(conversation, ab, repeat, "ab"), _ask(conversation, ba, repeat, "ba"))
    ]


def _ask(of: Conversation, prompt: JudgePrompt, repeat: int, order: str = "") -> Ask:
    return Ask(of.question_id, of.category, prompt.turn, repeat, order, prompt.name, prompt.messages)
