"""BELEBELE: 900 questions on 488 passages of FLORES, the same in every language (Bandarkar et al. 2023, arXiv 2308.16884)."""

from collections.abc import Sequence
from typing import Any

from evalkit.tasks import NAME, TEXT, DataSource, Doc, HubTable, Table, one_of
from evalkit_tasks.multilingual.adapter import LmEvalAdapter, Row
from evalkit_tasks.multilingual.cells import MultilingualCell

HUB = ("facebook/belebele", "75b399394a9803252cfec289d103de462763db7c")
COLUMNS = {
    "link": TEXT,
    "question_number": NAME,
    **dict.fromkeys(("flores_passage", "question", "mc_answer1", "mc_answer2", "mc_answer3", "mc_answer4"), TEXT),
    "correct_answer_num": one_of("1", "2", "3", "4", 1, 2, 3, 4),  # some copies hold the number as text
}


class Belebele(LmEvalAdapter):
    """Each passage has a link of its own, which names it."""

    labels = ("A", "B", "C", "D")

    def tables(self, cell: MultilingualCell, source: DataSource) -> list[Table]:
        code = cell.data.rpartition("/")[2]
        return [Table(cell.data, COLUMNS, HubTable(*HUB, f"data/{code}", dict), key=("link", "question_number"))]

    def rows(self, cell: MultilingualCell, source: DataSource, split: str) -> list[dict[str, Any]]:
        return [{**row, "correct_answer_num": str(row["correct_answer_num"])} for row in source.rows(self.tables(cell, source)[0])]

    def options(self, doc: Doc, choices: Sequence[str]) -> Sequence[str]:
        return [doc.fields[f"mc_answer{i}"] for i in range(1, 5)]

    def key(self, row: Row, number: int) -> str:
        return f"{row['link']}#{row['question_number']}"

    def cluster(self, row: Row, number: int) -> str:
        return str(row["link"])
