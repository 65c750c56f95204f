"""A data file as a task: `data_file_task(path)` reads and checks it whole, before anything is run.

The protocol is `file-` and a hash of all that decides how a row is asked and scored; the rows themselves are in the data's hash.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from evalkit.tasks import (
    DataSource,
    Doc,
    EvalkitError,
    Form,
    Generate,
    Generated,
    Loglikelihood,
    Loglikelihoods,
    Protocol,
    Request,
    Response,
    Scored,
    ScoresTexts,
    Task,
    delimiter,
    in_form,
    opening,
    prompt,
    sha256_json,
    stops,
)
from evalkit_tasks.choices import score_choice
from evalkit_tasks.data_file.choices import LETTERS
from evalkit_tasks.data_file.definition import Definition, alone, compiled, completed, read_definition
from evalkit_tasks.data_file.generated import INVALID, read, scores
from evalkit_tasks.data_file.items import Item, items
from evalkit_tasks.data_file.table import DataFile
from evalkit_tasks.data_file.table import read as read_table

SUFFIXES = (".csv", ".jsonl", ".json")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file that was read. `examples`: rows for few-shot examples, in order."""

    definition: Definition
    source: str
    items: Sequence[Item]
    examples: Sequence[Item]


class DataFileTask(Task, ScoresTexts):
    """A task of one data file: a class below this one is made for each."""

    loaded: ClassVar[Loaded]

    @classmethod
    def in_form(cls, protocol: Protocol, form: Form) -> Protocol:
        found = in_form(protocol, form, cls.loaded.definition.num_fewshot, False)
        _require_examples(cls.loaded, found.settings["num_fewshot"])
        return found

    def load(self, source: DataSource) -> list[Doc]:
        loaded, settings = self.loaded, self.protocol.settings
        source.note_own("rows", [item.row.cells for item in loaded.items])
        examples = loaded.examples[: settings["num_fewshot"]]
        if examples:
            source.note_own("examples", [item.row.cells for item in examples])
        shots = [(item.prompt, item.accepted[0]) for item in examples]
        prefix, messages = opening(self.protocol, settings["header"], shots, settings["delimiter"], settings["shot_end"])
        return [Doc(item.id, item.group, item.fields, prefix, messages=messages) for item in loaded.items]

    def category(self, group: str) -> str | None:
        return group if self.protocol.settings["group"] else None

    def question(self, doc: Doc) -> str:
        return str(doc.fields["question"])

    @abstractmethod
    def score_text(self, doc: Doc, text: str) -> Scored: ...


class ChoiceFile(DataFileTask):
    """Questions with choices, scored by log-likelihood: of the letters, or of the choices' texts."""

    def requests(self, doc: Doc) -> Sequence[Request]:
        settings, choices = self.protocol.settings, doc.fields["choices"]
        context, messages = prompt(self.protocol, doc, doc.fields["prompt"])
        said = LETTERS[: len(choices)] if settings["scores"] == "letters" else choices
        before = delimiter(self.protocol, settings["delimiter"])
        return [Loglikelihood(context, tuple(before + each for each in said), messages=messages)]

    def score(self, doc: Doc, responses: Sequence[Response]) -> Scored:
        (response,) = responses
        assert isinstance(response, Loglikelihoods)
        choices, right = doc.fields["choices"], doc.fields["answer"]
        by_character = [logprob / len(choice) for logprob, choice in zip(response.logprobs, choices, strict=True)]
        chosen = {"acc": _likeliest(response.logprobs), "acc_norm": _likeliest(by_character)}
        metrics = {metric: float(chosen[metric] == right) for metric in self.protocol.settings["metrics"]}
        return Scored(metrics, chosen[self.protocol.headline], right)

    def score_text(self, doc: Doc, text: str) -> Scored:
        choices = doc.fields["choices"]
        found = score_choice(text, LETTERS[: len(choices)], choices, doc.fields["answer"])
        return replace(found, metrics=dict.fromkeys(self.protocol.settings["metrics"], found.metrics["acc"]))


class AnswerFile(DataFileTask):
    """Questions whose answers are generated."""

    def requests(self, doc: Doc) -> Sequence[Request]:
        settings = self.protocol.settings
        context, messages = prompt(self.protocol, doc, doc.fields["prompt"])
        return [Generate(context, stops(self.protocol, settings["until"]), settings["max_new_tokens"], messages=messages)]

    def score(self, doc: Doc, responses: Sequence[Response]) -> Scored:
        (response,) = responses
        assert isinstance(response, Generated)
        return self.score_text(doc, response.text)

    def score_text(self, doc: Doc, text: str) -> Scored:
        settings = self.protocol.settings
        pattern = compiled(settings["pattern"], self.name) if settings["pattern"] else None
        given = read(text, settings["extraction"], pattern)
        answers = doc.fields["answers"]
        found = scores(given, answers, settings["metrics"], settings["extraction"] == "number")
        return Scored(found, given, " | ".join(answers), given == INVALID)


def data_file_task(path: Path) -> type[DataFileTask]:
    """The task of a data file, or of a .toml that names one. Raises EvalkitError or DataError for whatever is not fully understood."""
    loaded = _loaded(path)
    definition = loaded.definition
    left_out = ("data", "summary", *(() if definition.split else ("shots",)))  # how files are called changes no answer
    settings: dict[str, Any] = {key: value for key, value in asdict(definition).items() if key not in left_out}
    name = f"file-{sha256_json(settings)[:8]}"
    how = f"choices by their {definition.scores}" if definition.is_choice else f"generated answers, read as {definition.extraction}"
    protocol = Protocol(
        task=path.name,
        name=name,
        summary=definition.summary or f"{how}, {definition.num_fewshot} shots",
        source=path.name,
        headline=definition.headline,
        averaging=definition.averaging,
        settings=settings,
    )
    body = {
        "__doc__": protocol.summary,
        "name": path.name,
        "file": str(path),
        "protocols": {name: protocol},
        "default_protocol": name,
        "given_protocol": name,
        "official_n": len(loaded.items),
        "official_sha256": "",
        "loaded": loaded,
    }
    return type("DataFile", (ChoiceFile if definition.is_choice else AnswerFile,), body)


def _loaded(path: Path) -> Loaded:
    if path.suffix != ".toml":
        data = read_table(path)
        definition = alone(data)
        return Loaded(definition, str(path), items(definition, data, str(path)), ())
    given, file = read_definition(path)
    source = str(path)
    data = read_table(_beside(path, given.data, "data"))
    definition = completed(given, data, source, tuple(file.values))
    asked, examples = data, None
    if definition.split:
        asked = _of_split(data, definition.split, definition.test, source)
        examples = _of_split(data, definition.split, definition.shots, source) if definition.shots else None
    elif definition.shots:
        examples = read_table(_beside(path, definition.shots, "shots"))
        examples.require(*data.columns)
    found = Loaded(definition, source, items(definition, asked, source), items(definition, examples, source) if examples else ())
    _require_examples(found, definition.num_fewshot)
    return found


def _beside(path: Path, name: str, key: str) -> Path:
    """A file that a .toml names, from the folder of the .toml."""
    file = path.parent / name
    if file.suffix not in SUFFIXES:
        raise EvalkitError(f"{path}: {key} is {name!r}; give a file that ends in {', '.join(SUFFIXES)}, from the folder of the .toml")
    return file


def _of_split(data: DataFile, column: str, value: str, source: str) -> DataFile:
    rows = [row for row in data.rows if row.cells[column] == value]
    if not rows:
        there = ", ".join(dict.fromkeys(repr(row.cells[column]) for row in data.rows))
        raise EvalkitError(f"{source}: no row of {data.name} has {column} = {value!r}; it has {there:.200}")
    return replace(data, rows=rows)


def _require_examples(loaded: Loaded, count: int) -> None:
    if count > len(loaded.examples):
        raise EvalkitError(
            f"{loaded.source}: {count} shots, and there are {len(loaded.examples)} rows for them; "
            "name more with shots in a .toml (a file or a split), or ask with fewer"
        )


def _likeliest(values: Sequence[float]) -> str:
    """The letter; ties go to the earlier one."""
    return LETTERS[max(range(len(values)), key=lambda i: (values[i], -i))]
