"""What MT-Bench's judge is asked: FastChat's prompt templates, filled with questions, answers and reference answers."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalkit.tasks import Conversation, DataError, JudgePrompt, json_values

MOST_TURNS = 2  # FastChat's prompts know no more
COLUMNS = ("name", "system_prompt", "prompt_template")


@dataclass(frozen=True, slots=True)
class Template:
    """One template: {question}, {answer_a_1} and the like are filled in."""

    name: str
    system: str
    text: str


Templates = Mapping[str, Template]


@functools.lru_cache(maxsize=4)
def read_prompts(text: str, name: str) -> Templates:
    """The templates of a judge_prompts.jsonl by name. Raises DataError, which names the file."""
    found = {}
    for where, row in json_values(text, name):
        try:
            template = Template(*(row[column] for column in COLUMNS))
        except (KeyError, TypeError):
            raise DataError(f"{where}: no judge prompt; expected an object with {', '.join(COLUMNS)}") from None
        if not all(isinstance(value, str) for value in (template.name, template.system, template.text)):
            raise DataError(f"{where}: {', '.join(COLUMNS)} must be texts")
        found[template.name] = template
    return found


def single_prompts(conversation: Conversation, templates: Templates) -> list[JudgePrompt]:
    """Single-answer grading: one prompt per turn, the second turn's with the whole conversation."""
    first = {"question": conversation.turns[0], "answer": conversation.answers[0]}
    both = _numbered("question", conversation.turns) | _numbered("answer", conversation.answers)
    return [_filled(templates, "single", conversation, turn, both if turn > 1 else first) for turn in _turns(conversation)]


def pair_prompts(one: Conversation, two: Conversation, templates: Templates) -> list[JudgePrompt]:
    """Pairwise comparison: one prompt per turn, the answers of `one` first."""
    first = {"question": one.turns[0], "answer_a": one.answers[0], "answer_b": two.answers[0]}
    both = _numbered("question", one.turns) | _numbered("answer_a", one.answers) | _numbered("answer_b", two.answers)
    return [_filled(templates, "pair", one, turn, both if turn > 1 else first) for turn in _turns(one)]


def _turns(conversation: Conversation) -> range:
    return range(1, min(MOST_TURNS, len(conversation.turns)) + 1)


def _filled(templates: Templates, kind: str, of: Conversation, turn: int, fields: Mapping[str, str]) -> JudgePrompt:
    style = "math-v1" if of.reference else "v1" if kind == "single" else "v2"
    name = f"{kind}-{style}{'-multi-turn' if turn > 1 else ''}"
    if name not in templates:
        raise DataError(f"the judge prompts lack {name}; they hold {', '.join(templates)}")
    template = templates[name]
    references = {f"ref_answer_{i}": text for i, text in enumerate(of.reference[:turn], start=1)}
    try:
        text = template.text.format(**fields, **references)
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(f"judge prompt {name} can't be filled in: {error!r}") from None
    return JudgePrompt(turn, name, (("system", template.system), ("user", text)))


def _numbered(name: str, texts: Sequence[str]) -> dict[str, str]:
    return {f"{name}_{i}": text for i, text in enumerate(texts, start=1)}
