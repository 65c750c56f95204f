"""GSM8K: 1,319 grade-school word problems, answered in free text (Cobbe et al. 2021, arXiv 2110.14168)."""

import ast
import random
from collections.abc import Sequence
from typing import Any

from evalkit.tasks import (
    TEXT,
    DataError,
    DataSource,
    Doc,
    Generate,
    Generated,
    HubTable,
    Request,
    Response,
    Scored,
    ScoresTexts,
    Table,
    Task,
    TextFile,
    matching,
)
from evalkit_tasks.extraction import EXTRACTIONS, gold
from evalkit_tasks.protocol_files import read_protocols

ANSWER = matching(r"#### -?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?\s*\Z", "a solution that ends in '#### NUMBER'")
COLUMNS = {"question": TEXT, "answer": ANSWER}
HUB = ("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866")
SETTINGS = {"shots": str, "item": str, "until": list, "max_new_tokens": int, "extraction": str}
LM_EVAL_SEED, LM_EVAL_SHOTS = 1234, 5


def table(split: str) -> Table:
    """The rows of "train" or "test"."""
    return Table(f"gsm8k/{split}.jsonl", COLUMNS, HubTable(*HUB, f"main/{split}-00000-of-00001.parquet", dict))


def _opencompass_shots(source: bytes) -> str:
    """The worked examples in OpenCompass's configuration, joined as it joins them for base models (newlines between turns).

    The file is Python: it is parsed, never run.
    """
    turns = [
        ast.literal_eval(keyword.value)
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "prompt" and isinstance(keyword.value, ast.Constant)
    ]
    return "".join(turn + "\n" for turn in turns[:-1])


WORKED_EXAMPLES = {
    "qwen_8shot": TextFile(
        "gsm8k/qwen_8shot_prompt.txt",
        "https://raw.githubusercontent.com/QwenLM/Qwen/2df8e8ac450fa185c421a08b0090ef81826caa6e/eval/gsm8k_prompt.txt",
        "b067972c3ba476496af49bacfc2ade83e4bc72c47a52f7f0e70d7d9e8f573e0d",
    ),
    "opencompass_4shot": TextFile(
        "gsm8k/opencompass_4shot_prompt.txt",
        "https://raw.githubusercontent.com/open-compass/opencompass/1650cee7d36d378cfc65b6fb809681e73b2a7da1"
        "/configs/datasets/gsm8k/gsm8k_gen_1d7fe4.py",
        "9d2c20a0829e741bee12593d20c27ba48b176b02f3e7cee242f6876f009558e4",
        _opencompass_shots,
    ),
}


class GSM8K(Task, ScoresTexts):
    name = "gsm8k"
    protocols = read_protocols("gsm8k", SETTINGS)
    default_protocol = "qwen"
    given_protocol = "qwen-fixed"
    text_files = tuple(WORKED_EXAMPLES.values())
    official_n = 1_319
    official_sha256 = "2ebbc76944d6c24aff2af35470ec1b568f80974664dd223d1535236a13445d3a"

    @classmethod
    def tables(cls, source: DataSource) -> list[Table]:
        return [table("train"), table("test")]

    def load(self, source: DataSource) -> list[Doc]:
        items = source.rows(table("test"))
        prefixes = self._prefixes(source, len(items))
        return [Doc(str(i), "all", row, prefix) for i, (row, prefix) in enumerate(zip(items, prefixes, strict=True))]

    def requests(self, doc: Doc) -> Sequence[Request]:
        settings = self.protocol.settings
        prompt = doc.prefix + settings["item"].format(question=doc.fields["question"])
        return [Generate(prompt, tuple(settings["until"]), settings["max_new_tokens"])]

    def score(self, doc: Doc, responses: Sequence[Response]) -> Scored:
        (response,) = responses
        assert isinstance(response, Generated)
        extraction = EXTRACTIONS[self.protocol.settings["extraction"]](response.text, doc.fields["answer"])
        metrics = {metric: float(correct) for metric, correct in extraction.correct.items()}
        return Scored(metrics, extraction.answer, gold(doc.fields["answer"]), extraction.failed)

    def question(self, doc: Doc) -> str:
        return str(doc.fields["question"])

    def score_text(self, doc: Doc, text: str) -> Scored:
        return self.score(doc, [Generated(text, "given", 0)])

    def _prefixes(self, source: DataSource, n: int) -> list[str]:
        shots = self.protocol.settings["shots"]
        if shots in WORKED_EXAMPLES:
            return [source.text(WORKED_EXAMPLES[shots])] * n
        return _lm_eval_prefixes(source.rows(table("train")), n)


def _lm_eval_prefixes(train: list[dict[str, Any]], n: int) -> list[str]:
    """lm-eval draws each document's shots from one generator, in the documents' order: document i gets the i-th draw.

    Drawn here for all documents at once, whatever subset is asked for: the same document always gets the same shots,
    those of lm-eval's whole run.
    """
    if len(train) < LM_EVAL_SHOTS:
        raise DataError(f"{table('train').path} holds {len(train)} rows, the protocol needs {LM_EVAL_SHOTS}")
    rng = random.Random(LM_EVAL_SEED)
    return ["".join(f"Question: {s['question']}\nAnswer: {s['answer']}\n\n" for s in rng.sample(train, LM_EVAL_SHOTS)) for _ in range(n)]


TASKS = (GSM8K,)
