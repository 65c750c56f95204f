"""What a judge is asked: FastChat's prompt templates filled with questions, answers and reference answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.data.sources import jsonl_rows
from evalkit.errors import DataError
from evalkit.judge.answered import Conversation

COLUMNS = ("name", "type", "system_prompt", "prompt_template", "output_format")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One template: {question}, {answer_a_1} and the like are filled in."""

    name: str
    system: str
    template: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One judgment to be made. `turn` counts from 1; `order` is "" or, of two answers, "ab" (ours first) or "ba"."""

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


def read_prompts(text: str, name: str) -> dict[str, Prompt]:
    """The templates of a judge_prompts.jsonl by name. Raises DataError, with the file's `name`."""
    return {row["name"]: Prompt(row["name"], row["system_prompt"], row["prompt_template"]) for row in jsonl_rows(text, name, COLUMNS)}


def single(conversations: Mapping[str, Conversation], prompts: Mapping[str, Prompt], repeats: int) -> list[Ask]:
    """Single-answer grading: one ask a turn, the second turn's with the whole conversation."""
    return [
        _ask(prompts, "single", conversation, turn, repeat, "", _single_fields(conversation, turn))
        for repeat in range(repeats)
        for conversation in conversations.values()
        for turn in _turns(conversation)
    ]


def pairwise(
    ours: Mapping[str, Conversation], theirs: Mapping[str, Conversation], prompts: Mapping[str, Prompt], repeats: int
) -> list[Ask]:
    """Pairwise comparison: two asks a turn, each answer first once. Both hold the same questions."""
    return [
        _ask(prompts, "pair", one, turn, repeat, order, _pair_fields(one, two, turn))
        for repeat in range(repeats)
        for question_id, conversation in ours.items()
        for turn in _turns(conversation)
        for order, one, two in (("ab", conversation, theirs[question_id]), ("ba", theirs[question_id], conversation))
    ]


def _turns(conversation: Conversation) -> Iterator[int]:
    # FastChat's prompts know two turns
    yield from range(1, min(2, len(conversation.turns)) + 1)


def _ask(prompts: Mapping[str, Prompt], kind: str, of: Conversation, turn: int, repeat: int, order: str, fields: Mapping[str, str]) -> Ask:
    style = "math-v1" if of.reference else "v1" if kind == "single" else "v2"
    name = f"{kind}-{style}{'-multi-turn' if turn > 1 else ''}"
    if name not in prompts:
        raise DataError(f"the judge prompts lack {name}; they hold {', '.join(prompts)}")
    prompt = prompts[name]
    references = {f"ref_answer_{i}": text for i, text in enumerate(of.reference[:turn], start=1)}
    try:
        text = prompt.template.format(**fields, **references)
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(f"judge prompt {name} can't be filled in: {error!r}") from None
    return Ask(of.question_id, of.category, turn, repeat, order, name, (("system", prompt.system), ("user", text)))


def _single_fields(of: Conversation, turn: int) -> dict[str, str]:
    if turn == 1:
        return {"question": of.turns[0], "answer": of.answers[0]}
    return _numbered("question", of.turns) | _numbered("answer", of.answers)


def _pair_fields(one: Conversation, two: Conversation, turn: int) -> dict[str, str]:
    if turn == 1:
        return {"question": one.turns[0], "answer_a": one.answers[0], "answer_b": two.answers[0]}
    return _numbered("question", one.turns) | _numbered("answer_a", one.answers) | _numbered("answer_b", two.answers)


def _numbered(name: str, texts: Sequence[str]) -> dict[str, Any]:
    return {f"{name}_{i}": text for i, text in enumerate(texts, start=1)}
