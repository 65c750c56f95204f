"""XCOPA: cause or effect of a premise, 500 questions per language (Ponti et al. 2020, EMNLP)."""

from collections.abc import Sequence
from typing import Any

from evalkit.tasks import NAME, TEXT, DataSource, Doc, HubTable, Table, one_of
from evalkit_tasks.multilingual.adapter import LmEvalAdapter, Row
from evalkit_tasks.multilingual.cells import MultilingualCell

HUB = ("cambridgeltl/xcopa", "042f78955ba48e6404616762fa6e05e839c3907a")
COLUMNS = {
    **dict.fromkeys(("premise", "choice1", "choice2"), TEXT),
    "question": one_of("cause", "effect"),
    "label": one_of(0, 1),
    "idx": NAME,
}
SPLITS = {"dev": ("val", "validation"), "test": ("test", "test")}  # upstream's names, and the hub's


class Xcopa(LmEvalAdapter):
    asks = "premise"

    def options(self, doc: Doc, choices: Sequence[str]) -> Sequence[str]:
        return [doc.fields["choice1"], doc.fields["choice2"]]

    def tables(self, cell: MultilingualCell, source: DataSource) -> list[Table]:
        return [self._table(cell, split) for split in SPLITS]

    def _table(self, cell: MultilingualCell, split: str) -> Table:
        upstream, hub = SPLITS[split]
        file = HubTable(*HUB, f"{cell.language}/{hub}-00000-of-00001.parquet", dict)
        return Table(f"{cell.data}/{upstream}.{cell.language}.jsonl", COLUMNS, file, key=("idx",))

    def rows(self, cell: MultilingualCell, source: DataSource, split: str) -> list[dict[str, Any]]:
        return source.rows(self._table(cell, split))

    def key(self, row: Row, number: int) -> str:
        return str(row["idx"])
