"""XStoryCloze: the right ending of a four-sentence story, 1,511 stories per language (Lin et al. 2022, EMNLP)."""

from typing import Any

from evalkit.tasks import TEXT, DataSource, HubTable, Table, one_of
from evalkit_tasks.multilingual.adapter import LmEvalAdapter, Row
from evalkit_tasks.multilingual.cells import MultilingualCell

HUB = ("juletxara/xstory_cloze", "c4c2d88a1ec8b37fe22166d2a610f272726724b6")
SENTENCES = ("input_sentence_1", "input_sentence_2", "input_sentence_3", "input_sentence_4", "sentence_quiz1", "sentence_quiz2")
COLUMNS = {"story_id": TEXT, **dict.fromkeys(SENTENCES, TEXT), "answer_right_ending": one_of("1", "2")}


class Xstorycloze(LmEvalAdapter):
    """A folder and the hub hold the same file."""

    asks = "input_sentence_1"

    def tables(self, cell: MultilingualCell, source: DataSource) -> list[Table]:
        file = f"spring2016.val.{cell.language}.tsv.split_20_80_{cell.split}.tsv"
        return [Table(f"xstorycloze/{file}", COLUMNS, HubTable(*HUB, file, dict), "tsv-quoted", key=("story_id",))]

    def rows(self, cell: MultilingualCell, source: DataSource, split: str) -> list[dict[str, Any]]:
        (table,) = self.tables(cell, source)
        return [{**row, "answer_right_ending": int(row["answer_right_ending"])} for row in source.rows(table)]

    def key(self, row: Row, number: int) -> str:
        return str(row["story_id"])
