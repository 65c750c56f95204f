"""Suites: tasks made of cells, one set in one language each."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from evalkit.tasks.tables import DataSource
from evalkit.tasks.task import Protocol, Sampling, Task


@dataclass(frozen=True, slots=True)
class SuiteCell:
    """One cell: the documents whose group is `name`. `metric` is "acc" or the like, or "bleu" with sacrebleu's `tokenize`."""

    name: str
    set: str
    language: str
    category: str
    metric: str
    tokenize: str = ""


@dataclass(frozen=True, slots=True)
class DataState:
    """What `data verify` says of a task's data: `state` is "official", "sample" or what is wrong; `detail` the digest, or more on that."""

    state: str
    detail: str
    documents: int


class SuiteTask(Task):
    """A task whose figure is the mean of its categories, and theirs the mean of their cells (evalkit.stats.suite). `--limit` is per cell.

    `part` names the part that is run (`belebele:th`), "" for the whole.
    """

    part_of: ClassVar[str] = ""  # the suite that this one is a part of and shares its data with

    def __init__(self, protocol: Protocol, sampling: Sampling | None = None, part: str = ""):
        super().__init__(protocol, sampling)
        self.part = part
        self.incomplete: Mapping[str, str] = {}  # cells for which `load` found no data or not all of it, and why

    @classmethod
    @abstractmethod
    def parts(cls) -> Sequence[str]:
        """What may follow the task's name and a colon (`belebele:th`)."""

    @abstractmethod
    def cells(self) -> Sequence[SuiteCell]:
        """The cells, in order."""

    @classmethod
    @abstractmethod
    def check_data(cls, source: DataSource) -> DataState:
        """The state of the data, cell by cell: a source need not hold all of them."""
