"""XWinograd: which of two names does a pronoun stand for? (Tikhonov and Ryabinin 2021, arXiv 2106.12066)

The upstream file holds tokens and spans; lm-eval's definition reads sentences with "_" in the pronoun's place. Its authors changed the case
of some options by hand; we keep upstream's.
"""

import json
from collections.abc import Sequence
from typing import Any

from evalkit.tasks import ANY_TEXT, DataSource, Doc, Rule, Table, TextFile
from evalkit_tasks.multilingual.adapter import LmEvalAdapter, Row
from evalkit_tasks.multilingual.cells import MultilingualCell

COLUMNS = dict.fromkeys(("language", "source", "english", "sentence", "tokens", "pronoun", "candidates"), ANY_TEXT)
FILE = TextFile(
    "xwinograd/dataset.tsv",
    "https://raw.githubusercontent.com/yandex-research/crosslingual_winograd/d2cfbbf7dc8f4ec66381e9651f9f5633c2df848d/dataset.tsv",
    "2c4cdad50f7a35523ce16f4437b7d5c814ebf7a49ad10f618468eeb32f08a873",
)
SPANS = Rule("pronoun", "spans that fit the sentence, and one right candidate of two", lambda row: _question(row) is not None)
TABLE = Table(FILE.path, COLUMNS, FILE, "tsv", (SPANS,))


class Xwinograd(LmEvalAdapter):
    asks = "sentence"

    def tables(self, cell: MultilingualCell, source: DataSource) -> list[Table]:
        return [TABLE]

    def rows(self, cell: MultilingualCell, source: DataSource, split: str) -> list[dict[str, Any]]:
        code = cell.lm_eval.removesuffix(".yaml").rpartition("_")[2]
        found = [row for row in source.rows(TABLE) if row["language"] == code]
        return [
            {"number": str(i), "source": row["source"], "english": row["english"], **(_question(row) or {})} for i, row in enumerate(found)
        ]

    def key(self, row: Row, number: int) -> str:
        return str(row["number"])

    def options(self, doc: Doc, choices: Sequence[str]) -> Sequence[str]:
        return [doc.fields["option1"], doc.fields["option2"]]

    def cluster(self, row: Row, number: int) -> str:
        """Sentences come in pairs that differ in a word or two and have the same options."""
        return f"{row['pair']}"


def _question(row: Row) -> dict[str, Any] | None:
    """The sentence with "_" for the pronoun, both options, and "1" or "2"; None where the spans don't fit."""
    try:
        (pronoun, (start, _), _), candidates, tokens = json.loads(row["pronoun"]), json.loads(row["candidates"]), json.loads(row["tokens"])
        at = 0
        for token in tokens[:start]:
            text = '"' if token in ("``", "''") else token  # the tokenizer's quotes
            at = row["sentence"].index(text, at) + len(text)
        at = row["sentence"].index(pronoun, at)
        (first, second) = candidates
        (right,) = [i for i, candidate in enumerate((first, second), 1) if candidate[3]]
        names = sorted((first[0].casefold(), second[0].casefold()))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    sentence = row["sentence"][:at] + "_" + row["sentence"][at + len(pronoun) :]
    return {"sentence": sentence, "option1": first[0], "option2": second[0], "answer": str(right), "pair": f"{row['language']} {names}"}
