"""A task: one benchmark under one protocol.

Task under a Protocol -> docs -> requests -> responses -> Scored -> aggregation

Three methods are a task's own: `load`, `requests` and `score`. Kinds of tasks that need more are classes below it: suite.py (a mean over
cells), judged.py (rated by a language model), programs.py (answers are programs), answers.py (answers made elsewhere).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from evalkit.errors import EvalkitError
from evalkit.tasks.requests import Messages, Request, Response
from evalkit.tasks.tables import DataSource, Table, TextFile

if TYPE_CHECKING:
    from evalkit.tasks.prompt_form import Form


@dataclass(frozen=True, slots=True)
class Doc:
    """One item of a benchmark. `id` is stable across sources and limits; `group` is its subject or language.

    `prefix` is what its prompts begin with: header and shots. `messages`, (role, content) each, are the same for a conversation.
    `cluster` names what it shares with others (a passage), "" for nothing.
    """

    id: str
    group: str
    fields: Mapping[str, Any]
    prefix: str = ""
    cluster: str = ""
    messages: Messages = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """The score of one document's responses: a number per metric, the answer that was extracted, and the right answer.

    A corpus metric (BLEU) has no number per document: its value is (references, hypothesis). `parts` are what the document adds to other
    metrics that only all documents together have, as JSON.
    """

    metrics: Mapping[str, Any]
    extracted: str
    target: str
    extraction_failed: bool = False
    parts: Mapping[str, Any] = field(default_factory=dict)


UNSCORED = Scored({}, "", "")  # the responses alone do not decide: a judge or a program will


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


class Task(ABC):
    """One benchmark under one protocol."""

    name: ClassVar[str]
    protocols: ClassVar[Mapping[str, Protocol]]
    default_protocol: ClassVar[str]
    official_n: ClassVar[int]  # documents of the whole benchmark
    official_sha256: ClassVar[str]  # content hash of the rows of `tables`, as `data verify` computes it
    text_files: ClassVar[Sequence[TextFile]] = ()  # what `data fetch` fetches besides the tables
    file: ClassVar[str | None] = None  # of a task of one's own: its file, as it was named

    def __init__(self, protocol: Protocol, sampling: Sampling | None = None):
        self.protocol, self.sampling = protocol, sampling or Sampling()

    @classmethod
    def tables(cls, source: DataSource) -> list[Table]:
        """Every table of the benchmark, as `data verify` reads them (the sample may hold fewer); none where its rows are its own."""
        return []

    @classmethod
    def protocol_of(cls, name: str, table: Mapping[str, Any]) -> Protocol:
        """A protocol of the user's own, out of a table in the schema of the task's own ones.

        Raises codec.Misfit for what does not fit, and EvalkitError where the task takes none.
        """
        raise EvalkitError(f"task {cls.name} takes no protocol from a file; leave --protocol-file out")

    @classmethod
    def in_form(cls, protocol: Protocol, form: "Form") -> Protocol:
        """The protocol with other shots, or in the model's chat template. Raises EvalkitError where the task has no such form."""
        raise EvalkitError(f"{protocol} is asked in one form, as its protocol says, and {form.suffix} is another; leave it out")

    @abstractmethod
    def load(self, source: DataSource) -> list[Doc]:
        """All documents, in the benchmark's order, with what their prompts need. Raises DataError."""

    @abstractmethod
    def requests(self, doc: Doc) -> Sequence[Request]:
        """The requests for this document; a pure function of the document and the protocol."""

    @abstractmethod
    def score(self, doc: Doc, responses: Sequence[Response]) -> Scored:
        """Score the responses to `requests(doc)`, in order; a pure function of them. UNSCORED where they alone do not decide."""

    def category(self, group: str) -> str | None:
        """The category that a group (subject) is reported under, if the benchmark has categories."""
        return None

    def remark(self) -> str | None:
        """What a reader of this protocol's figures should know, in one line."""
        return None
