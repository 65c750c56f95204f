"""How a data file is asked: the keys of its .toml, each with its default, and what a data file alone stands for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from evalkit.tasks import EvalkitError, TomlFile, decode_toml
from evalkit_tasks.data_file.choices import LETTERS
from evalkit_tasks.data_file.generated import METRICS
from evalkit_tasks.data_file.table import DataFile

FIX = "see docs/tasks.md"
LETTERED = "Question: {{ question }}\n{% for choice in choices %}{{ letters[loop.index0] }}. {{ choice }}\n{% endfor %}Answer:"
PLAIN = "Question: {{ question }}\nAnswer:"
CHOICE_KEYS = ("separator", "answer_is", "scores")
GENERATED_KEYS = ("until", "max_new_tokens", "extraction", "pattern")
ALONE = ("question", "choices", "answer", "id", "group")  # columns that a data file may have without a .toml, but for letters
CHOICE_METRICS = {"letters": ("acc",), "texts": ("acc_norm", "acc")}


@dataclass(frozen=True, slots=True)
class Definition:
    """The keys of a .toml. `choices`: the column of lists of them, or a column each; () where answers are generated; None: as the columns
    have it. `shots`: a file of rows for few-shot examples, or the value of the column `split` that they have; `test`: the others' value.
    """

    data: str
    summary: str = ""
    question: str = "question"
    choices: str | tuple[str, ...] | None = None
    answer: str = "answer"
    id: str = ""
    group: str = ""
    separator: str = "|"
    answer_is: Literal["", "letter", "index", "number", "text"] = ""
    scores: Literal["letters", "texts"] = "letters"
    header: str = ""
    prompt: str = ""
    delimiter: str = " "
    shot_end: str = "\n\n"
    num_fewshot: int = 0
    shots: str = ""
    split: str = ""
    test: str = ""
    until: tuple[str, ...] = ("\nQuestion:",)
    max_new_tokens: int = 64
    extraction: Literal["exact", "first_line", "number", "regex"] = "first_line"
    pattern: str = ""
    metrics: tuple[str, ...] = ()
    averaging: Literal["micro", "macro"] = "micro"

    @property
    def is_choice(self) -> bool:
        """Are choices scored, once it is known which columns there are?"""
        return bool(self.choices)

    @property
    def headline(self) -> str:
        return self.metrics[0]


def read_definition(path: Path) -> tuple[Definition, TomlFile]:
    """The keys of a .toml. Raises EvalkitError with the line of what is wrong."""
    file = TomlFile.read(path)
    return decode_toml(Definition, file, FIX), file


def alone(data: DataFile) -> Definition:
    """What a data file without a .toml stands for, by its columns. Raises EvalkitError for a column that has no meaning."""
    found = completed(Definition(data.name, id=_if_there("id", data), group=_if_there("group", data)), data, data.name)
    known = (*ALONE, *(found.choices if isinstance(found.choices, tuple) else ()))
    if odd := [column for column in data.columns if column not in known]:
        raise EvalkitError(
            f"{data.name}: the column {odd[0]!r} has no meaning by itself; leave it out, or describe the file in a .toml ({FIX}). "
            f"It may have {', '.join(ALONE)}, or A, B, .. for choices"
        )
    return found


def completed(definition: Definition, data: DataFile, source: str, given: Sequence[str] = ()) -> Definition:
    """The definition with the choices, prompt and metrics that its columns imply; `given`: the keys that the .toml has.

    Raises EvalkitError for columns that are not there and keys that have no effect or no meaning.
    """
    choices = definition.choices
    if choices is None:
        letters = _letters(data, source)
        if letters and "choices" in data.columns:
            raise EvalkitError(
                f"{source}: {data.name} has both a column 'choices' and the columns {', '.join(letters)}; leave one of them out"
            )
        choices = "choices" if "choices" in data.columns else letters
    if isinstance(choices, tuple) and len(choices) == 1:
        raise EvalkitError(f"{source}: there is one column of choices, {choices[0]!r}; give two or more")
    found = replace(definition, choices=choices)
    columns = [found.question, *([choices] if isinstance(choices, str) else choices), found.answer, found.id, found.group, found.split]
    data.require(*(column for column in columns if column))
    named = [column for column in columns if column]
    if twice := [column for i, column in enumerate(named) if column in named[:i] and column != found.group]:
        raise EvalkitError(f"{source}: the column {twice[0]!r} is named for two things; give each its own")
    if idle := [key for key in given if key in (GENERATED_KEYS if found.is_choice else CHOICE_KEYS)]:
        why = "choices are scored, and no answer is generated (choices = [] would have one)" if found.is_choice else "there are no choices"
        raise EvalkitError(f"{source}: {idle[0]} has no effect, since {why}; leave it out")
    return _checked(_with_defaults(found), source, given)


def _with_defaults(found: Definition) -> Definition:
    lettered = found.is_choice and found.scores == "letters"
    metrics = CHOICE_METRICS[found.scores] if found.is_choice else ("exact_match",)
    return replace(found, prompt=found.prompt or (LETTERED if lettered else PLAIN), metrics=found.metrics or metrics)


def _checked(found: Definition, source: str, given: Sequence[str]) -> Definition:
    allowed = CHOICE_METRICS[found.scores] if found.is_choice else ("exact_match",) if found.extraction == "number" else tuple(METRICS)
    if odd := [metric for metric in found.metrics if metric not in allowed]:
        how = f'scores = "{found.scores}"' if found.is_choice else f'extraction = "{found.extraction}"'
        raise EvalkitError(f"{source}: metrics has {odd[0]!r}, and {how} has {', '.join(allowed)}")
    if len({*found.metrics}) < len(found.metrics):
        raise EvalkitError(f"{source}: metrics has {', '.join(found.metrics)}; name each once, the headline first")
    if (found.extraction == "regex") != bool(found.pattern):
        raise EvalkitError(f'{source}: extraction = "regex" and pattern = ".." go together; give both or neither')
    if found.pattern:
        compiled(found.pattern, source)
    if found.num_fewshot < 0 or found.max_new_tokens < 1:
        raise EvalkitError(
            f"{source}: num_fewshot is {found.num_fewshot} and max_new_tokens {found.max_new_tokens}; give 0 or more, 1 or more"
        )
    if "" in found.until:
        raise EvalkitError(f"{source}: until holds an empty text, at which every answer would end; leave it out")
    if found.num_fewshot and not found.shots:
        raise EvalkitError(f"{source}: num_fewshot is {found.num_fewshot}, and no rows are named for them; give shots, a file or a split")
    if bool(found.split) != bool(found.test):
        raise EvalkitError(f"{source}: split (a column) and test (its value in the rows to be asked) go together; give both or neither")
    if found.split and found.test == found.shots:
        raise EvalkitError(f"{source}: shots and test are both {found.test!r}; rows that are asked can't be their own examples")
    if not found.is_choice and found.extraction != "first_line" and "until" not in given:
        raise EvalkitError(
            f'{source}: extraction = "{found.extraction}" reads more than a line; say where answers end: until = ["\\n\\n"], or []'
        )
    return found


def compiled(pattern: str, source: str) -> re.Pattern[str]:
    """Raises EvalkitError for a pattern that is no regular expression, or has several groups."""
    try:
        found = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise EvalkitError(f"{source}: pattern {pattern!r:.80} is no regular expression ({error})") from None
    if found.groups > 1:
        raise EvalkitError(
            f"{source}: pattern {pattern!r:.80} has {found.groups} groups; let one hold the answer, and write the others (?:..)"
        )
    return found


def _letters(data: DataFile, source: str) -> tuple[str, ...]:
    """The columns A, B, .. that there are. Raises EvalkitError for a gap."""
    found = tuple(letter for letter in LETTERS if letter in data.columns)
    if lacking := [letter for letter in LETTERS[: len(found)] if letter not in found]:
        raise EvalkitError(
            f"{source}: {data.name} has the columns {', '.join(found)} and no {lacking[0]}; name those of choices in a .toml, or add it"
        )
    return found


def _if_there(column: str, data: DataFile) -> str:
    return column if column in data.columns else ""
