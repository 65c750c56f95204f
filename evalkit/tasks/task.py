"""A task: one benchmark under one protocol, and all that the harness knows of it.

Task under a Protocol -> docs -> requests (instances) -> responses -> Scored -> aggregation
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from evalkit.tasks.programs import FunctionCheck, Ran
from evalkit.tasks.requests import Request, Response
from evalkit.tasks.tables import DataSource, Table, TextFile


@dataclass(frozen=True, slots=True)
class Doc:
    """One item of a benchmark. `id` is stable across sources and limits; `group` is its subject or language.

    `prefix` is what its prompts begin with: header and shots. `cluster` names what it shares with others (a passage), "" for nothing.
    """

    id: str
    group: str
    fields: Mapping[str, Any]
    prefix: str = ""
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """What scoring one doc's responses gave: a number a metric, what was extracted, and what would have been right.

    A corpus metric (BLEU) has no number a doc: its value is (references, hypothesis).
    """

    metrics: Mapping[str, Any]
    extracted: str
    target: str
    extraction_failed: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """How often each document is answered, at what temperature (None: the protocol's own), and the run's seed."""

    repeats: int = 1
    temperature: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Protocol:
    """A frozen, named way to run a task. `settings` are the task's own; `source` says where they were read."""

    task: str
    name: str
    summary: str
    source: str
    headline: str
    averaging: Literal["micro", "macro"]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.task}@{self.name}"


@dataclass(frozen=True, slots=True)
class SuiteCell:
    """One cell of a suite: the documents whose group is `name`. `metric` is "acc" or the like, or "bleu" with sacrebleu's `tokenize`."""

    name: str
    set: str
    language: str
    category: str
    metric: str
    tokenize: str = ""


class Task(ABC):
    """One benchmark under one protocol; `part` names a part of it, where it has such."""

    name: ClassVar[str]
    protocols: ClassVar[Mapping[str, Protocol]]
    default_protocol: ClassVar[str]
    text_files: ClassVar[Sequence[TextFile]] = ()  # what `data fetch` brings besides the tables
    official_n: ClassVar[int]  # documents of the whole benchmark
    official_sha256: ClassVar[str]  # content hash of the rows of `tables`, as `data verify` computes it
    runs_code: ClassVar[bool] = False  # does scoring run what the model wrote?
    can_sample: ClassVar[bool] = False  # does it know repeats and temperature?
    judge_prompts: ClassVar[TextFile | None] = None  # of a task that a judge scores (`evalkit judge`), not `score`
    given_protocol: ClassVar[str | None] = None  # under which `evalkit score` takes answers as they are; None: it reads none

    limit_each_group: ClassVar[bool] = False  # is --limit N a group, not a task?
    part_of: ClassVar[str] = ""  # the suite whose data it shares: named on its own, or not at all
    incomplete: Mapping[str, str] = {}  # cells that `load` found no data for, or not all of it, and why

    def __init__(self, protocol: Protocol, sampling: Sampling | None = None, part: str = ""):
        self.protocol, self.sampling, self.part = protocol, sampling or Sampling(), part

    @classmethod
    def parts(cls) -> Sequence[str]:
        """What may follow the task's name and a colon (`belebele:th`)."""
        return ()

    @classmethod
    @abstractmethod
    def tables(cls, source: DataSource) -> list[Table]:
        """Every table of the benchmark, as `data verify` reads them (the sample may hold fewer)."""

    @abstractmethod
    def load(self, source: DataSource) -> list[Doc]:
        """All documents, in the benchmark's order, with what their prompts need. Raises DataError."""

    @abstractmethod
    def requests(self, doc: Doc) -> Sequence[Request]:
        """The requests that this document takes; a pure function of the document and the protocol."""

    def follow_up(self, doc: Doc, responses: Sequence[Response]) -> Sequence[Request]:
        """What is asked next, once all that was asked before is answered (`responses`, in order); empty where nothing more is."""
        return ()

    def programs(self, doc: Doc, responses: Sequence[Response]) -> Sequence[FunctionCheck]:
        """The programs that decide about the responses to `requests(doc)`."""
        return ()

    @abstractmethod
    def score(self, doc: Doc, responses: Sequence[Response], ran: Sequence[Ran] = ()) -> Scored:
        """Score the responses to `requests(doc)` and what followed; a pure function of them and of what became of `programs`.

        No metrics: the document is not scored yet, a judge will.
        """

    def read_answers(self, text: str, name: str) -> Mapping[str, Sequence[str]]:
        """The answers by document id in the text of a file made elsewhere. Raises DataError, with the file's `name`."""
        raise NotImplementedError

    def remark(self) -> str | None:
        """What a reader of this protocol's figures should know, in one line."""
        return None

    def cells(self) -> Sequence[SuiteCell]:
        """The cells of a suite, in order: its figure is the mean of its categories, and theirs of their cells. () for all other tasks."""
        return ()

    @classmethod
    def check_cells(cls, source: DataSource) -> tuple[str, str, int] | None:
        """Of a suite: the state of its data in one line, details, and how many documents there are; None for all other tasks."""
        return None

    def category(self, group: str) -> str | None:
        """The category that a group (subject) is reported under, if the benchmark has such."""
        return None
