"""MMLU in other languages: 57 subjects, four options. The prompt is that of Qwen's own script for the English one.

Qwen used FreedomIntelligence's translations, ruMMLU (MERA) for Russian and IndoMMLU for Indonesian. From the hub we read Global-MMLU, which
has translations of its own into all ten languages; in a folder, each language's public copy in that copy's layout.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.tasks import OBJECT, TEXT, DataSource, Doc, HubTable, MissingData, Protocol, Rule, Table, list_of, one_of, opening
from evalkit_tasks.mmlu import COLUMNS, LETTERS, SUBJECTS
from evalkit_tasks.multilingual.adapter import Loaded, apart_from, draw, first
from evalkit_tasks.multilingual.cells import MultilingualCell
from evalkit_tasks.multilingual.letters import LetterAdapter

HUB = ("CohereLabs/Global-MMLU", "0e619dbeb34206cd48705a1a0ea7fb21cae09993")
HEADER = "The following are multiple choice questions (with answers) about {subject}.\n\n"
ITEM = "Question: {question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nAnswer:"
LITE = {"metadata": OBJECT, "prompts": list_of(OBJECT, 1), "label": one_of(*LETTERS)}
LITE_TEXTS = ("question", *(f"option_{letter.lower()}" for letter in LETTERS))
LITE_RULES = (
    Rule("metadata", "an object with the texts subject and sample_id", lambda row: _texts(row["metadata"], ("subject", "sample_id"))),
    Rule("prompts", f"an object with the texts {', '.join(LITE_TEXTS)} first", lambda row: _texts(row["prompts"][0], LITE_TEXTS)),
)
NO_TABLE = HubTable(*HUB, "", dict)  # the hub has no table in a folder's layouts
LEFT_OUT_OF_JMMLU = {
    *("high_school_government_and_politics", "high_school_us_history", "high_school_world_history"),
    *("moral_scenarios", "professional_law", "us_foreign_policy"),
}
# JMMLU: MMLU's subjects without those about one country's law and history, and Japanese questions instead of some
JMMLU_SUBJECTS = (
    *(subject for subject in SUBJECTS if subject not in LEFT_OUT_OF_JMMLU),
    *("japanese_history", "world_history"),
)

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # by subject


def _texts(value: Mapping[str, Any], names: Sequence[str]) -> bool:
    return all(TEXT.fits(value.get(name)) for name in names)


def _from_hub(row: Mapping[str, Any]) -> dict[str, Any]:
    options = {letter: row[f"option_{letter.lower()}"] for letter in LETTERS}
    return {"subject": row["subject"], "question": row["question"], **options, "answer": row["answer"]}


class Mmmlu(LetterAdapter):
    """On the hub a cell has a table per split; in a folder JMMLU's files (ja), Global-MMLU-Lite's (id), else one per subject and split."""

    def tables(self, cell: MultilingualCell, source: DataSource) -> list[Table]:
        if source.kind == "hub":
            return [self._hub(cell, split) for split in ("dev", "test")]
        if cell.language == "ja":
            return [self._jmmlu(subject) for subject in JMMLU_SUBJECTS]
        if cell.language == "id":
            return [self._lite(cell, split) for split in ("dev", "test")]
        return [self._csv(cell, subject, split) for subject in SUBJECTS for split in ("dev", "test")]

    def _hub(self, cell: MultilingualCell, split: str) -> Table:
        hub = HubTable(*HUB, f"{cell.language}/{split}-00000-of-00001.parquet", _from_hub)
        return Table(f"{cell.data}/{split}", {"subject": TEXT, **COLUMNS}, hub)

    def _jmmlu(self, subject: str) -> Table:
        return Table(f"mmmlu/ja/JMMLU/{subject}.csv", COLUMNS, NO_TABLE)

    def _lite(self, cell: MultilingualCell, split: str) -> Table:
        return Table(f"{cell.data}/global_mmlu_lite_{cell.language}_{split}.jsonl", LITE, NO_TABLE, rules=LITE_RULES)

    def _csv(self, cell: MultilingualCell, subject: str, split: str) -> Table:
        return Table(f"{cell.data}/{split}/{subject}_{split}.csv", COLUMNS, NO_TABLE)

    def load(self, cell: MultilingualCell, source: DataSource, shots: int, seed: int, protocol: Protocol) -> Loaded:
        dev, test = self._rows(cell, source)
        docs: list[Doc] = []
        left_out = 0
        for subject, items in test.items():
            chosen = [] if subject in dev else draw([item["id"] for item in items], shots, cell.set, seed)
            worked = [items[i] for i in chosen] or first(dev[subject], shots, cell)
            header = HEADER.format(subject=subject.replace("_", " "))
            prefix, messages = opening(protocol, header, [(_prompt(row), row["answer"]) for row in worked], " ", "\n\n")
            # JMMLU has a few questions twice
            tested = apart_from(chosen, [_prompt(row) for row in items])
            left_out += len(items) - len(tested)
            docs += [
                Doc(f"{cell.name}/{row['id']}", cell.name, _fields(row, subject), prefix, f"mmmlu/{row['id']}", messages)
                for row in (items[i] for i in tested)
            ]
        return Loaded(docs, left_out)

    def _rows(self, cell: MultilingualCell, source: DataSource) -> tuple[Rows, Rows]:
        """Dev (empty where there is none) and test rows by subject. Ids are subject/number, MMLU's own where the order is MMLU's."""
        if source.kind == "hub":
            dev, test = (_by_subject(source.rows(self._hub(cell, split))) for split in ("dev", "test"))
            return dev, test
        if cell.language == "id":
            dev, test = (_by_subject([_from_lite(row) for row in source.rows(self._lite(cell, split))]) for split in ("dev", "test"))
            return dev, test
        if cell.language == "ja":
            return {}, {subject: _numbered(source.rows(self._jmmlu(subject)), f"jmmlu/{subject}") for subject in JMMLU_SUBJECTS}
        found: dict[str, dict[str, Sequence[Mapping[str, Any]]]] = {"dev": {}, "test": {}}
        absent: MissingData | None = None
        for subject in SUBJECTS:
            try:
                for split in ("test", "dev"):
                    found[split][subject] = _numbered(source.rows(self._csv(cell, subject, split)), subject)
            except MissingData as error:
                absent = absent or error  # Italian has 43 of the 57: the cell is run and marked as incomplete
        if absent and not found["test"]:
            raise absent
        return found["dev"], found["test"]


def _numbered(rows: Sequence[Mapping[str, Any]], subject: str) -> list[dict[str, Any]]:
    return [{**row, "id": f"{subject}/{i}"} for i, row in enumerate(rows)]


def _by_subject(rows: Sequence[Mapping[str, Any]]) -> Rows:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        members = found.setdefault(row["subject"], [])
        members.append({"id": f"{row['subject']}/{len(members)}", **row})
    return found


def _from_lite(row: Mapping[str, Any]) -> dict[str, Any]:
    """Global-MMLU-Lite's row; its options are in another order than MMLU's, so its ids are its own."""
    about, prompt = row["metadata"], row["prompts"][0]
    options = {letter: prompt[f"option_{letter.lower()}"] for letter in LETTERS}
    return {
        "subject": about["subject"],
        "question": prompt["question"],
        **options,
        "answer": row["label"],
        "id": f"lite/{about['sample_id']}",
    }


def _prompt(row: Mapping[str, Any]) -> str:
    return ITEM.format(**{column: row[column] for column in (*LETTERS, "question")})


def _fields(row: Mapping[str, Any], subject: str) -> dict[str, Any]:
    return {"subject": subject, "number": row["id"], "prompt": _prompt(row), "letters": list(LETTERS), "answer": row["answer"]}
