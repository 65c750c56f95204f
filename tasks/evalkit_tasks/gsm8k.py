"""GSM8K: 1,319 grade-school word problems, answered in free text (Cobbe et al. 2021, arXiv 2110.14168)."""

import ast
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.tasks import (
    NOT_EMPTY,
    TEXT,
    DataError,
    DataSource,
    Doc,
    EvalkitError,
    Form,
    Generate,
    Generated,
    HubTable,
    Protocol,
    Request,
    Response,
    Rule,
    Scored,
    ScoresTexts,
    Shot,
    Table,
    Task,
    TextFile,
    at_least,
    in_form,
    list_of,
    matching,
    one_of,
    opening,
    prompt,
    stops,
    template,
)
from evalkit_tasks.extraction import EXTRACTIONS, gold
from evalkit_tasks.protocol_files import Settings, make_protocol, read_protocols

# in the digits that `gold` reads, and once: it reads the first
ANSWER = matching(
    r"\A(?:(?!####)[\s\S])*#### -?([0-9]{1,3}(,[0-9]{3})+|[0-9]+)(\.[0-9]+)?\s*\Z", "a solution that ends in '#### NUMBER', its only one"
)
COLUMNS = {"question": TEXT, "answer": ANSWER}
HUB = ("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866")
CHAT = {"chat": bool}  # each shot is a user and an assistant turn, in the model's own chat template
NUM_SHOTS = {"qwen_8shot": 8, "opencompass_4shot": 4, "lm_eval_5shot": 5, "lighteval_5shot": 5}
SETTINGS: Settings = {
    "shots": one_of(*NUM_SHOTS),
    "item": template("question", needs="question"),
    "until": list_of(NOT_EMPTY, 0),
    "max_new_tokens": at_least(1),
    "extraction": one_of(*EXTRACTIONS),
}
STRICT = ("exact_match_strict", "exact_match_flexible")  # metrics of lm_eval_filters
RULES = (
    Rule(
        "headline",
        f"{' or '.join(STRICT)} of lm_eval_filters, acc of the other extractions",
        lambda row: row["headline"] in (STRICT if row["extraction"] == "lm_eval_filters" else ("acc",)),
    ),
)
LM_EVAL_SEED, LIGHTEVAL_SEED = 1234, 42


Row = dict[str, Any]


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
    protocols = read_protocols("gsm8k", SETTINGS, optional=CHAT)
    default_protocol = "qwen"
    given_protocol = "qwen-fixed"
    text_files = tuple(WORKED_EXAMPLES.values())
    official_n = 1_319
    official_sha256 = "2ebbc76944d6c24aff2af35470ec1b568f80974664dd223d1535236a13445d3a"

    @classmethod
    def protocol_of(cls, name: str, table: Mapping[str, Any]) -> Protocol:
        return make_protocol("gsm8k", name, table, SETTINGS, CHAT, RULES)

    @classmethod
    def in_form(cls, protocol: Protocol, form: Form) -> Protocol:
        most = NUM_SHOTS[protocol.settings["shots"]]
        if protocol.settings["shots"] in WORKED_EXAMPLES and (form.num_fewshot or 0) > most:
            raise EvalkitError(
                f"{protocol} has {most} worked examples, and {form.num_fewshot} are asked for; give {most} or fewer, "
                "or gsm8k@lm-eval, which draws them"
            )
        return in_form(protocol, form, most, protocol.settings.get("chat", False))

    @classmethod
    def tables(cls, source: DataSource) -> list[Table]:
        return [table("train"), table("test")]

    def load(self, source: DataSource) -> list[Doc]:
        items = source.rows(table("test"))
        shots = self.protocol.settings["shots"]
        if shots in WORKED_EXAMPLES:
            text = source.text(WORKED_EXAMPLES[shots])
            prefix, messages = opening(self.protocol, "", self._worked(text), "", "") if "form" in self.protocol.settings else (text, ())
            return [Doc(str(i), "all", row, prefix, messages=messages) for i, row in enumerate(items)]
        drawn = DRAWS[shots](source.rows(table("train")), len(items), self._num_fewshot)
        return [self._doc(str(i), row, rows) for i, (row, rows) in enumerate(zip(items, drawn, strict=True))]

    def requests(self, doc: Doc) -> Sequence[Request]:
        settings = self.protocol.settings
        item = settings["item"].format(question=doc.fields["question"])
        until, length = tuple(settings["until"]), settings["max_new_tokens"]
        if settings.get("chat", False):
            return [Generate("", until, length, messages=(*doc.messages, ("user", item)))]
        context, messages = prompt(self.protocol, doc, item)
        return [Generate(context, stops(self.protocol, until), length, messages=messages)]

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

    def _doc(self, name: str, row: dict[str, Any], shots: Sequence[Row]) -> Doc:
        """A document after its drawn shots, each "Question: ..\nAnswer:" and " " + its solution."""
        turns = [(f"Question: {shot['question']}\nAnswer:", shot["answer"]) for shot in shots]
        if self.protocol.settings.get("chat", False):  # lighteval leaves the blank before the solution
            own = tuple(m for user, assistant in turns for m in (("user", user), ("assistant", f" {assistant}")))
            return Doc(name, "all", row, messages=own)
        prefix, messages = opening(self.protocol, "", turns, " ", "\n\n")
        return Doc(name, "all", row, prefix, messages=messages)

    @property
    def _num_fewshot(self) -> int:
        settings = self.protocol.settings
        return int(settings.get("num_fewshot", NUM_SHOTS[settings["shots"]]))

    def _worked(self, text: str) -> list[Shot]:
        """The first worked examples of a prompt's text, each cut after what the item ends with; all of them are the whole text."""
        settings = self.protocol.settings
        cue = settings["item"].partition("{question}")[2]
        end = text[len(text.rstrip("\n")) :]
        starts = [match.start() for match in re.finditer(r"^Question:", text, re.MULTILINE)]
        blocks = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
        count = NUM_SHOTS[settings["shots"]]
        if len(blocks) != count or starts[0] or any(block.count(cue) != 1 for block in blocks):
            raise DataError(f"{WORKED_EXAMPLES[settings['shots']].path} does not hold {count} worked examples as {self.protocol} asks")
        chosen = blocks[: self._num_fewshot]
        if chosen:
            chosen[-1] = chosen[-1].rstrip("\n") + end
        return [(f"{question}{cue}", answer) for question, _, answer in (block.partition(cue) for block in chosen)]


def _lm_eval_draw(train: list[Row], n: int, count: int) -> list[list[Row]]:
    """lm-eval draws each document's shots from one generator, in the documents' order: document i gets the i-th draw.

    Drawn here for all documents at once, whatever subset is asked for: the same document always gets the same shots,
    those of lm-eval's whole run.
    """
    rng = random.Random(LM_EVAL_SEED)
    return [_draw(rng, train, count) for _ in range(n)]


def _lighteval_draw(train: list[Row], n: int, count: int) -> list[list[Row]]:
    """lighteval shuffles the documents, then draws in the new order, from the same generator.

    Source: create_requests_from_tasks in lighteval/tasks/lighteval_task.py, `random_sampling_from_train` in prompt_manager.py.
    """
    rng = random.Random(LIGHTEVAL_SEED)
    order = list(range(n))
    rng.shuffle(order)
    drawn = {i: _draw(rng, train, count) for i in order}
    return [drawn[i] for i in range(n)]


def _draw(rng: random.Random, train: list[Row], count: int) -> list[Row]:
    if len(train) < count:
        raise DataError(f"{table('train').path} holds {len(train)} rows, the protocol needs {count}")
    return rng.sample(train, count)


DRAWS = {"lm_eval_5shot": _lm_eval_draw, "lighteval_5shot": _lighteval_draw}


TASKS = (GSM8K,)
