"""What the nine sets have in common: a cell's tables and documents, the requests for a document, and the score of its responses."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evalkit.tasks import (
    DataError,
    DataSource,
    Doc,
    Generate,
    Generated,
    Messages,
    Protocol,
    Request,
    Response,
    Scored,
    Table,
    TextFile,
    begun_with,
    is_conversation,
    opening,
    prompt,
    sha256_json,
    stops,
)
from evalkit_tasks.choices import score_choice
from evalkit_tasks.multilingual.cells import MultilingualCell
from evalkit_tasks.multilingual.lm_eval_definition import INVALID, Definition, definition

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A cell's documents, in the benchmark's order. `left_out`: rows that are not tested: shots, and what shares a cluster with one."""

    docs: Sequence[Doc]
    left_out: int = 0


class Adapter(ABC):
    """One set. Document ids are `<cell>/<key>`; a document holds all that its prompt needs."""

    text_files: Sequence[TextFile] = ()

    @abstractmethod
    def tables(self, cell: MultilingualCell, source: DataSource) -> list[Table]:
        """Every table of the cell."""

    @abstractmethod
    def load(self, cell: MultilingualCell, source: DataSource, shots: int, seed: int, protocol: Protocol) -> Loaded:
        """The cell's documents, and what their prompts begin with in the protocol's form.

        Raises MissingData where a file is missing, and DataError for bad rows."""

    @abstractmethod
    def requests(self, cell: MultilingualCell, doc: Doc, protocol: Protocol) -> Sequence[Request]:
        """The requests for this document in the protocol's form."""

    @abstractmethod
    def score(self, cell: MultilingualCell, doc: Doc, responses: Sequence[Response]) -> Scored:
        """Score the responses to `requests`."""

    @abstractmethod
    def question(self, doc: Doc) -> str:
        """What is asked."""

    @abstractmethod
    def score_text(self, cell: MultilingualCell, doc: Doc, text: str) -> Scored:
        """Score an answer made elsewhere."""


class LmEvalAdapter(Adapter):
    """A set whose texts and scores are lm-eval's. `rows` brings its data into the layout that the definition expects."""

    max_new_tokens = 0
    asks = "question"  # the field that holds what is asked
    labels: Sequence[str] = ("1", "2")  # of the choices, in the definition's order

    @abstractmethod
    def rows(self, cell: MultilingualCell, source: DataSource, split: str) -> list[dict[str, Any]]:
        """The rows of `cell.split` or `cell.shots_from`, as the hub dataset of lm-eval's definition has them."""

    @abstractmethod
    def key(self, row: Row, number: int) -> str:
        """The row's name within its cell: the same in any order and in every language."""

    def cluster(self, row: Row, number: int) -> str:
        """The name of what a row shares with others of its set: by default the same item in other languages."""
        return self.key(row, number)

    def load(self, cell: MultilingualCell, source: DataSource, shots: int, seed: int, protocol: Protocol) -> Loaded:
        rows = self.rows(cell, source, cell.split)
        known = definition(cell.lm_eval, rows[0])
        keys = [self.key(row, number) for number, row in enumerate(rows)]
        clusters = [self.cluster(row, number) for number, row in enumerate(rows)]
        chosen: list[int] = []
        if shots and cell.shots_from == "drawn":
            chosen = draw(keys, shots, cell.set, seed)
            worked = [rows[i] for i in chosen]
        elif shots:
            worked = first(self.rows(cell, source, cell.shots_from), shots, cell)
        else:
            worked = []
        prefix, messages = _opening(known, _processed(known, worked, cell), protocol)
        tested = apart_from(chosen, clusters)
        processed = _processed(known, [rows[i] for i in tested], cell)
        docs = [
            Doc(f"{cell.name}/{keys[i]}", cell.name, row, prefix, f"{cell.set}/{clusters[i]}", messages)
            for i, row in zip(tested, processed, strict=True)
        ]
        return Loaded(docs, len(rows) - len(docs))

    def requests(self, cell: MultilingualCell, doc: Doc, protocol: Protocol) -> Sequence[Request]:
        chat = is_conversation(protocol)
        asked = definition(cell.lm_eval, doc.fields).requests(doc.fields, "" if chat else doc.prefix, chat)
        found: list[Request] = []
        for each in asked:
            context, messages = prompt(protocol, doc, each.context) if chat else (each.context, ())
            if isinstance(each, Generate):
                length = each.max_new_tokens or self.max_new_tokens
                found.append(replace(each, context=context, messages=messages, until=stops(protocol, each.until), max_new_tokens=length))
            else:
                found.append(replace(each, context=context, messages=messages))
        return found

    def score(self, cell: MultilingualCell, doc: Doc, responses: Sequence[Response]) -> Scored:
        known = definition(cell.lm_eval, doc.fields)
        metrics, extracted = known.scores(doc.fields, responses)
        return Scored(metrics, extracted, known.target(doc.fields), extracted == INVALID)

    def question(self, doc: Doc) -> str:
        return str(doc.fields[self.asks])

    def score_text(self, cell: MultilingualCell, doc: Doc, text: str) -> Scored:
        """A generated answer as the definition scores it; a choice by the option's text or by its label."""
        if self.max_new_tokens:
            return self.score(cell, doc, [Generated(text, "given", 0)])
        known = definition(cell.lm_eval, doc.fields)
        options = known.options(doc.fields)
        right = options.index(known.target(doc.fields))
        return score_choice(text, self.labels, self.options(doc, options), self.labels[right])

    def options(self, doc: Doc, choices: Sequence[str]) -> Sequence[str]:
        """The options in words, of which the definition's choices are letters, or sentences that hold them."""
        return choices


def _opening(known: Definition, worked: Sequence[Row], protocol: Protocol) -> tuple[str, Messages]:
    """As a text, the shots are as lm-eval joins them."""
    if is_conversation(protocol):
        return opening(protocol, "", known.turns(worked), known.delimiter, "\n\n")
    return begun_with(protocol, known.shots(worked)), ()


def first(rows: Sequence[Any], count: int, cell: MultilingualCell) -> list[Any]:
    """The first rows of a dev split, in its order: the same for all documents, so that their prompts share them. Raises DataError."""
    if len(rows) < count:
        raise DataError(f"{cell.name}: {len(rows)} {cell.shots_from} rows, its {count} shots need more")
    return list(rows[:count])


def draw(keys: Sequence[str], count: int, *seed: Any) -> list[int]:
    """The indices of the test rows that become shots: the same rows for one seed, whatever their order. Raises DataError."""
    if len(keys) <= count:
        raise DataError(f"{seed[0]}: {len(keys)} rows, {count} of them shots: nothing is left to test")
    return sorted(range(len(keys)), key=lambda i: sha256_json([*seed, keys[i]]))[:count]


def apart_from(shots: Sequence[int], clusters: Sequence[str]) -> list[int]:
    """The indices of the rows that share no cluster with a shot. Raises DataError where none is left."""
    shown = {clusters[i] for i in shots}
    tested = [i for i, cluster in enumerate(clusters) if cluster not in shown]
    if not tested:
        raise DataError(f"all {len(clusters)} rows share a cluster with one of {len(shots)} shots: nothing is left to test")
    return tested


def _processed(known: Definition, rows: Sequence[Row], cell: MultilingualCell) -> list[dict[str, Any]]:
    processed = known.processed(rows)
    if len(processed) != len(rows):
        raise DataError(f"{cell.name}: lm-eval's definition drops {len(rows) - len(processed)} rows that its adapter keeps")
    return processed
