"""The suite as tasks: `multilingual` (all cells), a category (`multilingual:exams`), a set (`belebele`), a cell (`belebele:th`)."""

import importlib.resources
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

from evalkit.tasks import (
    Answers,
    DataError,
    DataSource,
    DataState,
    Doc,
    EvalkitError,
    Form,
    MissingData,
    Protocol,
    ReadsAnswers,
    Request,
    Response,
    Rule,
    Sampling,
    Scored,
    ScoresTexts,
    SuiteTask,
    Table,
    Task,
    in_form,
    one_of,
    sha256_json,
)
from evalkit_tasks.multilingual.adapter import Adapter
from evalkit_tasks.multilingual.belebele import Belebele
from evalkit_tasks.multilingual.cells import BY_NAME, CATEGORIES, CELLS, SETS, MultilingualCell
from evalkit_tasks.multilingual.flores import Flores
from evalkit_tasks.multilingual.m3exam import M3exam
from evalkit_tasks.multilingual.mgsm import Mgsm
from evalkit_tasks.multilingual.mmmlu import Mmmlu
from evalkit_tasks.multilingual.pawsx import Pawsx
from evalkit_tasks.multilingual.xcopa import Xcopa
from evalkit_tasks.multilingual.xstorycloze import Xstorycloze
from evalkit_tasks.multilingual.xwinograd import Xwinograd
from evalkit_tasks.protocol_files import make_protocol, read_protocols

ADAPTERS: dict[str, Adapter] = {
    "mmmlu": Mmmlu(),
    "m3exam": M3exam(),
    "belebele": Belebele(),
    "xwinograd": Xwinograd(),
    "xcopa": Xcopa(),
    "pawsx": Pawsx(),
    "xstorycloze": Xstorycloze(),
    "mgsm": Mgsm(),
    "flores": Flores(),
}


def _official() -> dict[str, str]:
    """Digests of the cells' rows as published upstream, for the cells that were available."""
    text = (importlib.resources.files("evalkit_tasks") / "multilingual" / "official.tsv").read_text("utf-8")
    return dict(line.split("\t") for line in text.splitlines() if not line.startswith("#"))


OFFICIAL = _official()


def _tables(cell: MultilingualCell, source: DataSource) -> list[list[dict[str, Any]]]:
    """The rows of those of the cell's tables that are there."""
    found = []
    for table in ADAPTERS[cell.set].tables(cell, source):
        with suppress(MissingData):
            found.append(source.rows(table))
    return found


SETTINGS = {"shots": one_of("as_published", "none")}
RULES = (
    Rule("headline", "mean, that of the categories", lambda row: row["headline"] == "mean"),
    Rule("averaging", "macro", lambda row: row["averaging"] == "macro"),
)
NO_DATA = "no data"
NO_QUESTIONS = ("pawsx", "xwinograd")
VARIED = -1  # no number of shots is that of all cells
# what the bundled sample covers
SAMPLE = ("m3exam:it", "belebele:es", "pawsx:de", "mgsm:es", "flores:en-de", "flores:de-en")


class MultilingualTask(SuiteTask, ScoresTexts):
    """Cells of the table. A cell without data in the folder is left out and named, never skipped in silence."""

    default_protocol = "qwen"
    given_protocol = "qwen"
    official_sha256 = ""
    whole: ClassVar[tuple[MultilingualCell, ...]]

    def __init__(self, protocol: Protocol, sampling: Sampling | None = None, part: str = ""):
        super().__init__(protocol, sampling, part)
        self._cells = tuple(cell for cell in self.whole if not part or part in (cell.category, cell.language))

    @classmethod
    def protocol_of(cls, name: str, table: Mapping[str, Any]) -> Protocol:
        return _with_cells(make_protocol(cls.name, name, table, SETTINGS, {}, RULES), cls.name, cls.whole)

    @classmethod
    def in_form(cls, protocol: Protocol, form: Form) -> Protocol:
        if form.chat and (odd := [name for name in NO_QUESTIONS if name in {cell.set for cell in cls.whole}]):
            raise EvalkitError(
                f"{protocol}: {' and '.join(odd)} scores whole sentences, and asks nothing that a conversation could answer; "
                "leave --apply-chat-template out, or name other sets, as in --tasks belebele,mgsm"
            )
        return in_form(protocol, form, VARIED, False)

    def cells(self) -> Sequence[MultilingualCell]:
        return self._cells

    @classmethod
    def tables(cls, source: DataSource) -> list[Table]:
        held = [cell for cell in cls.whole if source.kind != "sample" or cell.name in SAMPLE]
        found = [table for cell in held for table in ADAPTERS[cell.set].tables(cell, source)]
        return list({table.path: table for table in found}.values())

    def load(self, source: DataSource) -> list[Doc]:
        docs: list[Doc] = []
        incomplete: dict[str, str] = {}
        lacking: dict[str, str] = {}  # the first file that a category lacks
        for cell in self._cells:
            try:
                found = ADAPTERS[cell.set].load(cell, source, self._shots(cell), self.sampling.seed, self.protocol)
            except MissingData as error:
                incomplete[cell.name] = NO_DATA
                lacking.setdefault(cell.category, str(error))
                continue
            docs += found.docs
            if cell.documents and (held := len(found.docs) + found.left_out) < cell.documents:
                incomplete[cell.name] = f"{held:,} of {cell.documents:,} documents"
        for category in dict.fromkeys(cell.category for cell in self._cells):
            if not any(BY_NAME[doc.group].category == category for doc in docs):
                reason = lacking[category]
                raise DataError(f"{self.protocol.task}: no cell of {category} has data ({reason}); run the parts that do, e.g. belebele:th")
        self.incomplete = incomplete
        return docs

    @classmethod
    def check_data(cls, source: DataSource) -> DataState:
        """The detail is the digest of the cells' digests, or what is wrong."""
        digests: dict[str, str] = {}
        documents = 0
        protocol = cls.protocols[cls.default_protocol]
        for cell in cls.whole:
            try:
                documents += len(ADAPTERS[cell.set].load(cell, source, cell.shots, 0, protocol).docs)
                digests[cell.name] = sha256_json(_tables(cell, source))
            except MissingData:
                continue
            except DataError as error:
                return DataState("missing or broken", str(error), 0)
        held = f"{len(digests)} of {len(cls.whole)} cells"
        if source.kind != "sample" and (odd := [name for name, digest in digests.items() if OFFICIAL.get(name) != digest]):
            return DataState("differs from the rows we know", f"{len(odd)} of {held}: {', '.join(odd[:5])}", documents)
        if not digests:
            return DataState("missing or broken", f"none of {len(cls.whole)} cells has data", 0)
        state = "sample" if source.kind == "sample" else "official"
        rest = "" if len(digests) == len(cls.whole) else ", no data for the rest"
        return DataState(state, f"{sha256_json(digests)}: {held}{rest}", documents)

    def _shots(self, cell: MultilingualCell) -> int:
        as_published = cell.shots if self.protocol.settings["shots"] == "as_published" else 0
        return int(self.protocol.settings.get("num_fewshot", as_published))

    def requests(self, doc: Doc) -> Sequence[Request]:
        cell = BY_NAME[doc.group]
        return ADAPTERS[cell.set].requests(cell, doc, self.protocol)

    def score(self, doc: Doc, responses: Sequence[Response]) -> Scored:
        cell = BY_NAME[doc.group]
        return ADAPTERS[cell.set].score(cell, doc, responses)

    def question(self, doc: Doc) -> str:
        return ADAPTERS[BY_NAME[doc.group].set].question(doc)

    def score_text(self, doc: Doc, text: str) -> Scored:
        cell = BY_NAME[doc.group]
        return ADAPTERS[cell.set].score_text(cell, doc, text)

    @classmethod
    def parts(cls) -> Sequence[str]:
        return tuple(dict.fromkeys(cell.language for cell in cls.whole))

    def remark(self) -> str | None:
        if self.protocol.name == "given":
            return None
        return "Qwen's prompts, choice of shots and BLEU tokenizers are unpublished: these are lm-eval's and ours"


class TranslationTask(MultilingualTask, ReadsAnswers):
    """FLORES, whose translations may be made elsewhere."""

    given_protocol = "given"

    def read_answers(self, text: str, name: str, docs: Sequence[Doc]) -> Answers:
        """One translation per line, in devtest's order."""
        if len(self._cells) != 1:
            raise DataError(f"{name} holds one direction's translations; name it, as in flores:en-th")
        lines = text.removesuffix("\n").split("\n") if text else []
        if lines and len(lines) != len(docs):  # one that is lost would move all after it
            raise DataError(f"{name} holds {len(lines):,} lines, and there are {len(docs):,} sentences; give a line each, empty for none")
        return Answers({f"{self._cells[0].name}/{i}": [line.removesuffix("\r")] for i, line in enumerate(lines)})


SUITE = read_protocols("multilingual", SETTINGS)


def _with_cells(protocol: Protocol, name: str, cells: Sequence[MultilingualCell]) -> Protocol:
    """The protocol of a task of these cells: its digest covers how each of them is prompted and scored."""
    table = {c.name: [c.shots, c.shots_from, c.split, c.metric, c.tokenize, c.lm_eval] for c in cells}
    return replace(protocol, task=name, settings={**protocol.settings, "cells": table})


class Multilingual(MultilingualTask):
    name = "multilingual"
    whole = CELLS
    protocols: ClassVar[Mapping[str, Protocol]] = {key: _with_cells(protocol, "multilingual", CELLS) for key, protocol in SUITE.items()}
    official_n = sum(cell.documents for cell in CELLS)
    text_files = Mgsm.text_files

    @classmethod
    def parts(cls) -> Sequence[str]:
        return CATEGORIES


def _set_task(name: str, base: type[MultilingualTask], protocols: Mapping[str, Protocol]) -> type[MultilingualTask]:
    """The task of one set."""
    cells = tuple(cell for cell in CELLS if cell.set == name)
    body = {
        "__doc__": ADAPTERS[name].__doc__,
        "name": name,
        "part_of": "multilingual",
        "whole": cells,
        "protocols": {key: _with_cells(protocol, name, cells) for key, protocol in protocols.items()},
        "official_n": sum(cell.documents for cell in cells),
        "text_files": ADAPTERS[name].text_files,
    }
    return type(name.title(), (base,), body)


TASKS: tuple[type[Task], ...] = (
    Multilingual,
    *(_set_task(name, MultilingualTask, SUITE) for name in SETS if name != "flores"),
    _set_task("flores", TranslationTask, read_protocols("flores", SETTINGS)),
)
