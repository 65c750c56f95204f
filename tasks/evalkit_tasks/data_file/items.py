"""The rows of a data file as what is asked: prompts, choices and right answers, each checked before anything is run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.tasks import DataError, EvalkitError
from evalkit_tasks.data_file.choices import LETTERS, Question, questions
from evalkit_tasks.data_file.definition import Definition
from evalkit_tasks.data_file.table import DataFile, Row, shown
from evalkit_tasks.data_file.template import Template
from evalkit_tasks.numbers import numbers


@dataclass(frozen=True, slots=True)
class Item:
    """One row. Of a question with choices, `accepted` is the right one's letter or text, as the protocol scores; else the right answers."""

    row: Row
    id: str
    group: str
    question: str
    prompt: str
    choices: tuple[str, ...]
    right: int
    accepted: tuple[str, ...]

    @property
    def fields(self) -> dict[str, Any]:
        """What a sample records of it."""
        found: dict[str, Any] = {"question": self.question, "prompt": self.prompt}
        if self.choices:
            return found | {"choices": list(self.choices), "answer": LETTERS[self.right]}
        return found | {"answers": list(self.accepted)}


def items(definition: Definition, data: DataFile, source: str) -> list[Item]:
    """The items of all rows. Raises DataError, with row and column, and EvalkitError for the .toml called `source`."""
    template = Template(definition.prompt, "prompt", source)
    asked: Sequence[Question | None] = [None] * len(data.rows)
    if definition.choices:
        asked = questions(data, definition.choices, definition.answer, definition.separator, definition.answer_is)
    _require_no_other(definition, data, source)
    found = [_item(definition, data, row, each, number, template) for number, (row, each) in enumerate(zip(data.rows, asked, strict=True))]
    _require_distinct(found, definition)
    return found


def _item(definition: Definition, data: DataFile, row: Row, question: Question | None, number: int, template: Template) -> Item:
    asked = row.text(definition.question)
    values = {column: value for column, value in row.cells.items() if column != definition.answer} | {"question": asked}
    accepted: tuple[str, ...]
    if question:
        values |= {"choices": list(question.choices), "letters": LETTERS}
        accepted = (LETTERS[question.right] if definition.scores == "letters" else question.choices[question.right],)
    else:
        accepted = _answers(definition, data, row)
    prompt = template.render(row, values)
    if not prompt.strip():
        raise DataError(f"{row.place}: its prompt is empty; mend the template or the row")
    if prompt[-1:].isspace() and definition.delimiter[:1] == " ":
        raise EvalkitError(f'{row.place}: its prompt ends with a blank, and answers begin with one; end it without, or give delimiter = ""')
    name = _name(row, definition.id) if definition.id else str(number)
    group = _name(row, definition.group) if definition.group else "all"
    return Item(row, name, group, asked, prompt, question.choices if question else (), question.right if question else 0, accepted)


def _answers(definition: Definition, data: DataFile, row: Row) -> tuple[str, ...]:
    """The right answers of a row, each of which could be given. Raises DataError."""
    column = definition.answer
    value = row.cells[column]
    if data.of_texts and row.text(column).lstrip().startswith("["):
        raise row.wrong(
            column, f"{shown(value)} may be a text or a list of answers; a CSV cell has one answer: write JSON lines for several"
        )
    listed = value if isinstance(value, list) else [value]
    if not listed:
        raise row.wrong(column, "an empty list of answers; give one, or leave the row out")
    for each in listed:
        if isinstance(each, bool) or not isinstance(each, str | int | float) or not str(each).strip():
            raise row.wrong(column, f"{shown(each)} is no answer; write a text, a number, or a list of texts")
        if isinstance(each, float) and definition.extraction != "number":
            raise row.wrong(column, f'{shown(each)} can be written in several ways; write it as a text, or use extraction = "number"')
    texts = tuple(str(each) for each in listed)
    for text in texts:
        if definition.extraction == "number" and len(numbers(text)) != 1:
            raise row.wrong(column, f"{shown(text)} holds {len(numbers(text))} numbers, and one is compared; write the number alone")
        if definition.extraction == "first_line" and len(text.strip().splitlines()) > 1:
            raise row.wrong(column, f'{shown(text)} has several lines, and one is read; use extraction = "exact"')
        if stop := next((stop for stop in definition.until if stop in text.strip()), ""):
            raise row.wrong(column, f"{shown(text)} holds the stop string {stop!r}, so that no model could give it; choose another")
    return texts


def _name(row: Row, column: str) -> str:
    value = row.cells[column]
    if type(value) is int:
        return str(value)
    return row.text(column)


def _require_no_other(definition: Definition, data: DataFile, source: str) -> None:
    """Raises EvalkitError where a template could mean either of two columns by a name."""
    meant = {"question": definition.question}
    if definition.choices:
        meant |= {"choices": definition.choices if isinstance(definition.choices, str) else "", "letters": ""}
    for name, column in meant.items():
        if name in data.columns and name != column:
            raise EvalkitError(f"{source}: {data.name} has a column {name!r} that is not its {name} ({column!r}); give it another name")


def _require_distinct(found: Sequence[Item], definition: Definition) -> None:
    """Raises DataError for two rows of one id, or that ask the same."""
    ids: dict[str, Item] = {}
    prompts: dict[tuple[str, tuple[str, ...]], Item] = {}
    for item in found:
        if (other := ids.setdefault(item.id, item)) is not item:
            raise item.row.wrong(definition.id, f"the id {shown(item.id)} is that of {other.row.place} too; give each row its own")
        asked = (item.prompt, item.choices if definition.scores == "texts" else ())
        other = prompts.setdefault(asked, item)
        if other is not item:
            raise DataError(f"{item.row.place} asks the same as {other.row.place} ({shown(item.question)}); leave one of them out")
