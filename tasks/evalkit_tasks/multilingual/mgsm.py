"""MGSM: 250 problems of GSM8K, translated, with eight worked examples per language (Shi et al. 2022, arXiv 2210.03057).

The examples keep their own order (lm-eval shuffles them). The headline reads the last number of the answer, as Qwen's GSM8K script does;
lm-eval's strict metric, which requires "The answer is" in the question's language, is reported beside it. Two quirks are lm-eval's: its
comparison ignores punctuation (1.8 is 18), and it strips a prefix of Japanese and Russian examples by a fixed length that is off by one.
"""

import ast
import json
from typing import Any

from evalkit.tasks import TEXT, DataError, DataSource, Table, TextFile, matching
from evalkit_tasks.multilingual.adapter import LmEvalAdapter, Row
from evalkit_tasks.multilingual.cells import MultilingualCell

ADDRESS = "https://raw.githubusercontent.com/google-research/url-nlp/452a21ad3dae5668c06ceeac21ff073e1e40f9be/mgsm/"
FILES = {
    "es": "5bd27ebdf00140cec845c5298dc17715f5cd57d8edda6df1976db40bf3f0750a",
    "fr": "36207c1c03fd7cd3ea491441eb755408199f94e4a647851df531bbaedc99d606",
    "ru": "6bd30fd2e80c5bac23f566fb4ae0e6a55a19578401fbf9a01fb21beb3645fef8",
    "de": "4dfea30fede44b813e2e496f5f0534049e83c7cc8aed6e00600b30ec62053626",
    "ja": "59a2b50debe77981fd784cb3b2bef1505e3abf2a37116dc9d7a366ab029b4637",
    "th": "f3932dc5ad8e9d0ea82b017adc1e1461dd647af861e7166d6741986602a0cfd6",
}
COLUMNS = {"question": TEXT, "answer_number": matching(r"\A-?(\d{1,3}(,\d{3})+|\d{1,18})\Z", "a whole number")}
LITERALS = ("EXEMPLAR_NUMBER_ANSWERS", "EXEMPLAR_EQUATION_SOLUTIONS", "MGSM_EXEMPLARS")
EXEMPLAR_LANGUAGES = ("es", "fr", "de", "ru", "ja", "th", "zh", "en")  # those that are kept, in the file's order


def _literals(source: bytes) -> str:
    """The three literals of upstream's exemplars.py as JSON. The file is Python: it is parsed, never run."""
    found = {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in LITERALS
    }
    found["MGSM_EXEMPLARS"] = {language: found["MGSM_EXEMPLARS"][language] for language in EXEMPLAR_LANGUAGES}
    return json.dumps({name: found[name] for name in LITERALS}, ensure_ascii=False, indent=1) + "\n"


EXEMPLARS = TextFile(
    "mgsm/exemplars.json",
    f"{ADDRESS}exemplars.py",
    "7759974fdf5c3f9b4460e7c4ccda28846427db26214f1d181d4fa0425f74a38c",
    _literals,
    of_text=True,
)


class Mgsm(LmEvalAdapter):
    max_new_tokens = 512  # lm-eval leaves it to the model class (256): with some tokenizers too short for a solution in Thai
    text_files = (EXEMPLARS,)

    def tables(self, cell: MultilingualCell, source: DataSource) -> list[Table]:
        file = TextFile(cell.data, f"{ADDRESS}{cell.data.rpartition('/')[2]}", FILES[cell.language])
        return [Table(cell.data, COLUMNS, file, "tsv")]

    def rows(self, cell: MultilingualCell, source: DataSource, split: str) -> list[dict[str, Any]]:
        if split == "exemplars":
            return self._exemplars(cell, source)
        (table,) = self.tables(cell, source)
        return [
            {"number": i, "question": row["question"], "answer": None, "answer_number": int(row["answer_number"].replace(",", ""))}
            for i, row in enumerate(source.rows(table))
        ]

    def _exemplars(self, cell: MultilingualCell, source: DataSource) -> list[dict[str, Any]]:
        try:
            literals = json.loads(source.text(EXEMPLARS))
            examples = literals["MGSM_EXEMPLARS"][cell.language].values()
            return [
                {"number": i, "question": example["q"], "answer": example["a"], "answer_number": answer}
                for i, (example, answer) in enumerate(zip(examples, literals["EXEMPLAR_NUMBER_ANSWERS"], strict=True))
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{EXEMPLARS.path}: no worked examples in {cell.language} can be read ({error!r})") from None

    def key(self, row: Row, number: int) -> str:
        return str(row["number"])
