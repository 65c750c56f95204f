"""MT-Bench: 80 questions of two turns in eight categories, answered in conversation (Zheng et al. 2023, arXiv 2306.05685)."""

from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.tasks import (
    ANY_TEXT,
    NAME,
    OBJECT,
    TEXT,
    Conversation,
    DataError,
    DataSource,
    Doc,
    Field,
    JudgedTask,
    JudgePrompt,
    Table,
    TextFile,
    list_of,
    one_of,
)
from evalkit_tasks.mt_bench import rating
from evalkit_tasks.mt_bench.prompts import MOST_TURNS, pair_prompts, read_prompts, single_prompts
from evalkit_tasks.protocol_files import read_protocols

FASTCHAT = "https://raw.githubusercontent.com/lm-sys/FastChat/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/fastchat/llm_judge/data/"
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")  # the questions' order
SETTINGS = {"max_new_tokens": int, "reference_categories": list, "temperature": dict}


def _table(path: str, columns: Mapping[str, Field], sha256: str) -> Table:
    return Table(path, columns, TextFile(path, FASTCHAT + path, sha256), key=("question_id",))


QUESTIONS = _table(
    "mt_bench/question.jsonl",
    {"question_id": NAME, "category": one_of(*CATEGORIES), "turns": list_of(TEXT, 1)},
    "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
)
REFERENCES = _table(
    "mt_bench/reference_answer/gpt-4.jsonl",
    {"question_id": NAME, "choices": list_of(OBJECT, 1)},
    "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
)
JUDGE_PROMPTS = TextFile(
    "mt_bench/judge_prompts.jsonl",
    FASTCHAT + "judge_prompts.jsonl",
    "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
)


class MTBench(JudgedTask):
    name = "mt_bench"
    title = "MT-Bench"
    protocols = read_protocols("mt_bench", SETTINGS)
    default_protocol = "fastchat"
    text_files = (JUDGE_PROMPTS,)
    judge_prompts = JUDGE_PROMPTS
    judgment_files = "fastchat"
    scale = rating.SCALE
    categories = CATEGORIES
    official_n = 80
    official_sha256 = "6d8d4bc2760d98ea7592e71f3de362914ed20fd2de095f5f637f8f4b6d067601"

    @classmethod
    def tables(cls, source: DataSource) -> list[Table]:
        return [QUESTIONS, REFERENCES]

    def load(self, source: DataSource) -> list[Doc]:
        settings = self.protocol.settings
        references = {row["question_id"]: row["choices"] for row in source.rows(REFERENCES)}
        docs = []
        for row in source.rows(QUESTIONS):
            turns, category = row["turns"], row["category"]
            reference: list[str] = []
            if category in settings["reference_categories"]:
                reference = _reference(references.get(row["question_id"]), row["question_id"], len(turns))
            docs.append(Doc(str(row["question_id"]), category, {**row, "reference": reference}))
        return docs

    def temperature(self, doc: Doc) -> float:
        return float(self.protocol.settings["temperature"][doc.group])

    def rating_prompts(self, conversation: Conversation, prompts: str) -> Sequence[JudgePrompt]:
        return single_prompts(conversation, read_prompts(prompts, JUDGE_PROMPTS.path))

    def comparison_prompts(self, first: Conversation, second: Conversation, prompts: str) -> Sequence[JudgePrompt]:
        return pair_prompts(first, second, read_prompts(prompts, JUDGE_PROMPTS.path))

    def rated_turns(self, turns: Sequence[str]) -> range:
        return range(1, min(MOST_TURNS, len(turns)) + 1)

    def published_rating(self, text: str) -> float | None:
        return rating.published(text)

    def strict_rating(self, text: str) -> float | None:
        return rating.strict(text)

    def published_verdict(self, text: str) -> str | None:
        return rating.published_verdict(text)

    def strict_verdict(self, text: str) -> str | None:
        return rating.strict_verdict(text)


def _reference(choices: Any, question_id: Any, n_turns: int) -> list[str]:
    """The reference answer to each turn."""
    try:
        turns = choices[0]["turns"]
    except (TypeError, LookupError):
        turns = None
    if not isinstance(turns, list) or len(turns) < n_turns or not all(map(ANY_TEXT.fits, turns)):
        raise DataError(
            f"{REFERENCES.path}: no reference answer to the {n_turns} turns of question {question_id}, whose category needs one"
        )
    return turns[:n_turns]


TASKS = (MTBench,)
