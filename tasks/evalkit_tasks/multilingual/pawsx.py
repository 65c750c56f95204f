"""PAWS-X: are two sentences paraphrases? 2,000 pairs per language, translated from English (Yang et al. 2019, EMNLP)."""

from collections.abc import Mapping
from typing import Any

from evalkit.tasks import ANY_TEXT, TEXT, DataSource, HubTable, Table, one_of
from evalkit_tasks.multilingual.adapter import LmEvalAdapter, Row
from evalkit_tasks.multilingual.cells import MultilingualCell

HUB = ("google-research-datasets/paws-x", "4cd8187c404bda33cb1f62b49b001115862acf37")
COLUMNS = {"id": TEXT, "sentence1": ANY_TEXT, "sentence2": ANY_TEXT, "label": one_of("0", "1", "")}
SPLITS = {"dev": ("dev_2k.tsv", "validation"), "test": ("test_2k.tsv", "test")}  # upstream's files, and the hub's splits


def _from_hub(row: Mapping[str, Any]) -> dict[str, str]:
    return {column: str(row[column]) for column in COLUMNS}


class Pawsx(LmEvalAdapter):
    asks = "sentence1"
    labels = ("0", "1")

    def tables(self, cell: MultilingualCell, source: DataSource) -> list[Table]:
        return [self._table(cell, split) for split in SPLITS]

    def _table(self, cell: MultilingualCell, split: str) -> Table:
        file, name = SPLITS[split]
        hub = HubTable(*HUB, f"{cell.language}/{name}-00000-of-00001.parquet", _from_hub)
        return Table(f"{cell.data}/{file}", COLUMNS, hub, "tsv-header", key=("id",))

    def rows(self, cell: MultilingualCell, source: DataSource, split: str) -> list[dict[str, Any]]:
        """Without the pairs that were never translated ("NS", which upstream asks to drop) and those without a label."""
        table = self._table(cell, split)
        kept = [r for r in source.rows(table) if r["label"] and not {r["sentence1"].strip(), r["sentence2"].strip()} & {"", "NS"}]
        return [{**row, "label": int(row["label"])} for row in kept]

    def key(self, row: Row, number: int) -> str:
        return str(row["id"])
