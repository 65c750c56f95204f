"""Run: run.json, typed, with its folder, and its samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import EvalkitError, pip_install, unknown
from evalkit.record import schema
from evalkit.record.read import read_samples
from evalkit.record.sample import SampleRow, problems_of
from evalkit.tasks import Generated, last_asked

if TYPE_CHECKING:
    from pandas import DataFrame

CATEGORIES = ("task", "protocol", "group")
TEXTS = ("doc_id", "prompt", "response", "extracted", "target", "doc_hash", "prompt_hash")
PROBLEMS = tuple(count.name for count in fields(schema.Counts) if count.name != "unscored")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(schema.Run):
    """A run: the fields of its run.json (results/README.md), and the folder that it is in.

    `run.tasks["mmlu"].metrics["acc"]` is a figure: value, stderr, ci95 and n, in the metric's unit (accuracy: 0 to 1).
    """

    folder: Path

    @classmethod
    def of(cls, record: schema.Run, folder: Path) -> Run:
        return cls(**{field.name: getattr(record, field.name) for field in fields(schema.Run)}, folder=folder.absolute())

    def samples(self, task: str) -> Iterator[SampleRow]:
        """Every document of a task, with its requests, responses and scores. Raises EvalkitError where they can't be read."""
        if task not in self.tasks:
            raise unknown(f"task in {self.folder}:", task, self.tasks)
        return read_samples(self.folder, task)

    def to_pandas(self) -> DataFrame:
        """One row a document, in the run's order, and a column for each metric that is a number for each document (float64).

        A task that lacks a metric has NaN there; a metric that bears another column's name is called metrics.NAME. `prompt` is what was
        asked last, `response` the last generated text (missing where options were scored). Problems are booleans, as run.json counts them.
        Raises EvalkitError without pandas (the extra `pandas`), or where the samples can't be read.
        """
        try:
            import pandas
        except ImportError:
            raise EvalkitError(f"to_pandas needs pandas; run {pip_install('pandas')}") from None
        rows = [_row(key, entry.protocol, sample) for key, entry in self.tasks.items() for sample in self.samples(key)]
        metrics = _metrics([sample for _, sample in rows])
        columns: dict[str, Any] = {
            "task": [row["task"] for row, _ in rows],
            "protocol": [row["protocol"] for row, _ in rows],
            "doc_id": [row["doc_id"] for row, _ in rows],
            "group": [row["group"] for row, _ in rows],
        }
        fixed = (*CATEGORIES, *TEXTS, *PROBLEMS)
        for metric in metrics:
            name = f"metrics.{metric}" if metric in fixed else metric
            columns[name] = pandas.array([sample.metrics.get(metric) for _, sample in rows], dtype="float64")
        columns |= {name: [row[name] for row, _ in rows] for name in fixed if name not in columns}
        kinds = dict.fromkeys(CATEGORIES, "category") | dict.fromkeys(TEXTS, "string") | dict.fromkeys(PROBLEMS, "bool")
        return pandas.DataFrame(columns).astype(kinds)


def _row(task: str, protocol: str, sample: SampleRow) -> tuple[dict[str, Any], SampleRow]:
    """What is in every row, by column, and the sample itself."""
    texts = [response.text for response in sample.responses if isinstance(response, Generated)]
    problems = problems_of(sample.requests, sample.responses, sample.extraction_failed)
    row: dict[str, Any] = {"task": task, "protocol": protocol, "group": sample.group, "doc_id": sample.doc_id}
    row |= {"prompt": last_asked(sample.requests[-1]) if sample.requests else None, "response": texts[-1] if texts else None}
    row |= {"extracted": sample.extracted, "target": sample.target, "doc_hash": sample.doc_hash, "prompt_hash": sample.prompt_hash}
    return row | {name: name in problems for name in PROBLEMS}, sample


def _metrics(samples: Sequence[SampleRow]) -> list[str]:
    """Those that are numbers: of a corpus metric (BLEU), a document has texts."""
    names = dict.fromkeys(name for sample in samples for name in sample.metrics)
    texts = {name for sample in samples for name, value in sample.metrics.items() if isinstance(value, tuple)}
    return [name for name in names if name not in texts]
