"""M3Exam, text-only: real school exams of each country (Zhang et al. 2023, arXiv 2306.05179).

A question has two to five options. Each begins with its own letter or digit (in Thai, Arabic or Thai digits), which is what is scored. The
prompt is ours: the question, its options, "Answer:".
"""

from collections.abc import Mapping
from typing import Any

from evalkit.tasks import TEXT, DataSource, Doc, HubTable, Protocol, Rule, Table, TextFile, list_of, opening
from evalkit_tasks.multilingual.adapter import Loaded, first
from evalkit_tasks.multilingual.cells import MultilingualCell
from evalkit_tasks.multilingual.letters import LetterAdapter

COLUMNS = {"question_text": TEXT, "answer_text": TEXT, "options": list_of(TEXT, 2, 5)}
ADDRESS = "https://raw.githubusercontent.com/sail-sg/sailor-llm/078d31d16064f2e3b656f34a1effcf1803647f77/eval/data/m3exam/"
FILES = {
    "thai-questions-dev.json": "31bd39a12de7894d3dcfe27b2d2de3d7f99a16ac22105c1c3dcdf9689c9901d5",
    "thai-questions-test.json": "33a09777cd5984f9162cf7eae0c7e553dda2b60befb1704b5913c1ed505f8999",
    "vietnamese-questions-dev.json": "fc2c9dc7ea78c6e2e478d9e73e905aaeb3cd727e2a9e045044b43de6cbbdadec",
    "vietnamese-questions-test.json": "286cc823237ecbb568d29d93f4950a48a23e4dd8e712a6e37593c1c0a0e3b579",
}
# Italian and Portuguese: we know no commit of this repository, so its branch is read, and run.json records the commit that was fetched
HUB = ("chiayewken/m3exam", "main")
SCRIPTS = ("ABCDE", "12345", "๑๒๓๔๕")


def _from_hub(row: Mapping[str, Any]) -> dict[str, Any]:
    return {column: row[column] for column in COLUMNS}


def _letters(row: Mapping[str, Any]) -> str:
    """The options' letters: they follow from the place and the first one's script, as about 1% of them are wrong or missing upstream."""
    label = row["options"][0].strip()[:1]
    return next((script for script in SCRIPTS if label in script), "")[: len(row["options"])]


def _place(row: Mapping[str, Any]) -> int:
    """The answer's place among the options, written in any script; -1 for none of them."""
    answer = row["answer_text"].strip()
    places = (script.index(answer) for script in SCRIPTS if len(answer) == 1 and answer in script)
    return next((place for place in places if place < len(row["options"])), -1)


RULES = (
    Rule("options", "options that begin with A, 1 or ๑", lambda row: bool(_letters(row))),
    Rule("answer_text", "the letter of one of its options", lambda row: _place(row) >= 0),
)


class M3exam(LetterAdapter):
    def tables(self, cell: MultilingualCell, source: DataSource) -> list[Table]:
        return [self._table(cell, split) for split in ("dev", "test")]

    def _table(self, cell: MultilingualCell, split: str) -> Table:
        language = cell.data.rpartition("/")[2]
        file = f"{language}-questions-{split}.json"
        path = f"m3exam/text-question/{file}"
        if file in FILES:
            return Table(path, COLUMNS, TextFile(path, ADDRESS + file, FILES[file]), "json", RULES)
        return Table(path, COLUMNS, HubTable(*HUB, f"{language}/{split}-00000-of-00001.parquet", _from_hub), "json", RULES)

    def load(self, cell: MultilingualCell, source: DataSource, shots: int, seed: int, protocol: Protocol) -> Loaded:
        worked = [_fields(row) for row in first(source.rows(self._table(cell, "dev")), shots, cell)]
        prefix, messages = opening(protocol, "", [(shot["prompt"], shot["answer"]) for shot in worked], " ", "\n\n")
        items = source.rows(self._table(cell, "test"))
        return Loaded([Doc(f"{cell.name}/{i}", cell.name, _fields(row), prefix, messages=messages) for i, row in enumerate(items)])


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    prompt, letters = "\n".join([row["question_text"], *row["options"], "Answer:"]), _letters(row)
    return {"prompt": prompt, "letters": list(letters), "answer": letters[_place(row)]}
