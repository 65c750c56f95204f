"""MMLU: 57 subjects, four options, 14,042 test questions (Hendrycks et al. 2021, arXiv 2009.03300).

A question is one log-likelihood request with four continuations. The shots are the subject's first dev rows, in order.
Cells are text throughout: pandas, in Qwen's script, reads "None", "NA", "N/A" and "null" as missing and prints "nan"; we do not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.tasks import (
    TEXT,
    DataError,
    DataSource,
    Doc,
    Form,
    HubTable,
    Loglikelihood,
    Loglikelihoods,
    Messages,
    Protocol,
    Request,
    Response,
    Rule,
    Scored,
    ScoresTexts,
    Table,
    Task,
    at_least,
    delimiter,
    in_form,
    is_conversation,
    one_of,
    opening,
    prompt,
    template,
)
from evalkit_tasks.choices import score_choice
from evalkit_tasks.protocol_files import Settings, make_protocol, read_protocols

LETTERS = "ABCD"
COLUMNS = {"question": TEXT, **dict.fromkeys(LETTERS, TEXT), "answer": one_of(*LETTERS)}
HUB = ("cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe")

# the four groups as lm-eval's and Qwen's tables have them
CATEGORIES: dict[str, list[str]] = {
    "stem": (
        "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science college_mathematics "
        "college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics high_school_biology "
        "high_school_chemistry high_school_computer_science high_school_mathematics high_school_physics high_school_statistics "
        "machine_learning"
    ).split(),
    "humanities": (
        "formal_logic high_school_european_history high_school_us_history high_school_world_history international_law jurisprudence "
        "logical_fallacies moral_disputes moral_scenarios philosophy prehistory professional_law world_religions"
    ).split(),
    "social_sciences": (
        "econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics high_school_microeconomics "
        "high_school_psychology human_sexuality professional_psychology public_relations security_studies sociology us_foreign_policy"
    ).split(),
    "other": (
        "business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing medical_genetics "
        "miscellaneous nutrition professional_accounting professional_medicine virology"
    ).split(),
}
CATEGORY_OF = {subject: category for category, subjects in CATEGORIES.items() for subject in subjects}
SUBJECTS = tuple(sorted(CATEGORY_OF))
# of which the bundled sample has these; a folder or the hub must hold all 57
SAMPLE_SUBJECTS = (
    "astronomy computer_security elementary_mathematics formal_logic high_school_biology high_school_geography "
    "high_school_macroeconomics high_school_physics high_school_psychology high_school_statistics high_school_world_history "
    "nutrition philosophy world_religions"
).split()

METRICS = {"letters": ("acc",), "texts": ("acc", "acc_norm")}
SETTINGS: Settings = {
    "num_fewshot": at_least(0),
    "header": template("subject"),
    "item": template("question", *LETTERS, needs="question"),
    "shot_end": str,
    "strip_question": bool,
    "scores": one_of(*METRICS),
    "truncate_above": at_least(0),
    "truncate_to": at_least(0),
}
RULES = (
    Rule("headline", 'acc, or with scores = "texts" acc_norm', lambda row: row["headline"] in METRICS[row["scores"]]),
    Rule(
        "truncate_to", "0 where truncate_above is 0, else 1 to truncate_above", lambda row: _cuts(row["truncate_above"], row["truncate_to"])
    ),
)
CHAT = {"chat": bool}  # the prompt is one user turn in the model's own chat template


def _cuts(above: int, to: int) -> bool:
    return 1 <= to <= above if above else to == 0


def _from_hub(row: Mapping[str, Any]) -> dict[str, Any]:
    number = row["answer"]  # from 0; what is none of them is left as it is, to be refused by the column's field
    answer = LETTERS[number] if type(number) is int and 0 <= number < len(LETTERS) else number
    return {"question": row["question"], **dict(zip(LETTERS, row["choices"], strict=True)), "answer": answer}


def table(subject: str, split: str) -> Table:
    """One subject's rows of "dev" or "test"."""
    hub = HubTable(*HUB, f"{subject}/{split}-00000-of-00001.parquet", _from_hub)
    return Table(f"mmlu/{split}/{subject}_{split}.csv", COLUMNS, hub)


class MMLU(Task, ScoresTexts):
    name = "mmlu"
    protocols = read_protocols("mmlu", SETTINGS, optional=CHAT)
    default_protocol = "qwen"
    given_protocol = "qwen"
    official_n = 14_042
    official_sha256 = "02d86e263406bf68e8e8fca57e33db7c1b44e7857a67dbeee4c157d00ef47691"

    @classmethod
    def protocol_of(cls, name: str, table: Mapping[str, Any]) -> Protocol:
        return make_protocol("mmlu", name, table, SETTINGS, CHAT, RULES)

    @classmethod
    def in_form(cls, protocol: Protocol, form: Form) -> Protocol:
        return in_form(protocol, form, protocol.settings["num_fewshot"], protocol.settings.get("chat", False))

    @classmethod
    def tables(cls, source: DataSource) -> list[Table]:
        return [table(subject, split) for subject in _subjects(source) for split in ("dev", "test")]

    def load(self, source: DataSource) -> list[Doc]:
        docs = []
        for subject in _subjects(source):
            shots, items = source.rows(table(subject, "dev")), source.rows(table(subject, "test"))
            if len(shots) < self.protocol.settings["num_fewshot"]:
                needed = self.protocol.settings["num_fewshot"]
                raise DataError(f"{table(subject, 'dev').path} holds {len(shots)} rows, {self.protocol} needs {needed}")
            prefix, messages = self._opening(subject, shots)
            docs += [Doc(f"{subject}/{i}", subject, row, prefix, messages=messages) for i, row in enumerate(items)]
        return docs

    def requests(self, doc: Doc) -> Sequence[Request]:
        settings = self.protocol.settings
        letters = settings["scores"] == "letters"
        before = delimiter(self.protocol)
        context, messages = prompt(self.protocol, doc, self._item(doc.fields))
        if settings.get("chat", False):
            context, messages = "", (("user", context),)
        return [
            Loglikelihood(
                context,
                tuple(before + (letter if letters else doc.fields[letter]) for letter in LETTERS),
                truncate_above=None if is_conversation(self.protocol) else settings["truncate_above"] or None,
                truncate_to=None if is_conversation(self.protocol) else settings["truncate_to"] or None,
                messages=messages,
            )
        ]

    def score(self, doc: Doc, responses: Sequence[Response]) -> Scored:
        (response,) = responses
        assert isinstance(response, Loglikelihoods)
        gold = LETTERS.index(doc.fields["answer"])
        # ties go to the earlier letter, as numpy's argmax does in every harness compared with
        chosen = _argmax(response.logprobs)
        metrics = {"acc": float(chosen == gold)}
        if self.protocol.settings["scores"] == "texts":
            # lm-eval's acc_norm, lighteval's loglikelihood_acc_norm_nospace: by the option's characters, without the blank before it
            chosen = _argmax([p / max(1, len(doc.fields[letter])) for p, letter in zip(response.logprobs, LETTERS, strict=True)])
            metrics["acc_norm"] = float(chosen == gold)
        return Scored(metrics, LETTERS[chosen], doc.fields["answer"])

    def question(self, doc: Doc) -> str:
        return str(doc.fields["question"])

    def score_text(self, doc: Doc, text: str) -> Scored:
        return score_choice(text, LETTERS, [doc.fields[letter] for letter in LETTERS], doc.fields["answer"])

    def category(self, group: str) -> str | None:
        return CATEGORY_OF[group]

    def _opening(self, subject: str, rows: list[dict[str, Any]]) -> tuple[str, Messages]:
        settings = self.protocol.settings
        header = settings["header"].format(subject=subject.replace("_", " "))
        letters = settings["scores"] == "letters"
        shots = [(self._item(row), row["answer"] if letters else row[row["answer"]]) for row in rows[: settings["num_fewshot"]]]
        return opening(self.protocol, header, shots, " ", settings["shot_end"] or "\n\n")  # "" where a protocol has no shots by itself

    def _item(self, row: Mapping[str, Any]) -> str:
        question = row["question"].strip() if self.protocol.settings["strip_question"] else row["question"]
        return self.protocol.settings["item"].format(question=question, **{letter: row[letter] for letter in LETTERS})


def _subjects(source: DataSource) -> Sequence[str]:
    return SAMPLE_SUBJECTS if source.kind == "sample" else SUBJECTS


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda i: (values[i], -i))


TASKS = (MMLU,)
