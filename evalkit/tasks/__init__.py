"""The task API: all that a task adapter imports from evalkit. `evalkit.tasks.registry` turns names into tasks."""

from evalkit.codec import TomlFile, decode_toml, json_values, parse_json
from evalkit.errors import DataError, EvalkitError, MissingData, first_line, in_words
from evalkit.files import decoded
from evalkit.hashing import canonical_json, sha256_json
from evalkit.tasks.aggregated import Aggregated, AggregatedTask
from evalkit.tasks.answers import Answers, ReadsAnswers, ScoresTexts
from evalkit.tasks.fields import ANY_TEXT, NAME, OBJECT, TEXT, WHOLE_NUMBER, Field, Rule, list_of, matching, one_of
from evalkit.tasks.judged import READERS, Conversation, JudgedTask, JudgePrompt
from evalkit.tasks.own import read_bytes
from evalkit.tasks.programs import CodeTask, FunctionCheck, Ran
from evalkit.tasks.prompt_form import Form, Shot, begun_with, delimiter, in_form, is_conversation, opening, prompt, stops
from evalkit.tasks.requests import (
    REFUSED,
    Generate,
    Generated,
    Loglikelihood,
    Loglikelihoods,
    Messages,
    Request,
    Response,
    is_refused,
    last_asked,
)
from evalkit.tasks.suite import DataState, SuiteCell, SuiteTask
from evalkit.tasks.tables import DataSource, HubDataset, HubTable, PackageTable, Table, TextFile
from evalkit.tasks.task import UNSCORED, Doc, Protocol, Sampling, Scored, Task

__all__ = [
    "ANY_TEXT",
    "NAME",
    "OBJECT",
    "READERS",
    "REFUSED",
    "TEXT",
    "UNSCORED",
    "WHOLE_NUMBER",
    "Aggregated",
    "AggregatedTask",
    "Answers",
    "CodeTask",
    "Conversation",
    "DataError",
    "DataSource",
    "DataState",
    "Doc",
    "EvalkitError",
    "Field",
    "Form",
    "FunctionCheck",
    "Generate",
    "Generated",
    "HubDataset",
    "HubTable",
    "JudgePrompt",
    "JudgedTask",
    "Loglikelihood",
    "Loglikelihoods",
    "Messages",
    "MissingData",
    "PackageTable",
    "Protocol",
    "Ran",
    "ReadsAnswers",
    "Request",
    "Response",
    "Rule",
    "Sampling",
    "Scored",
    "ScoresTexts",
    "Shot",
    "SuiteCell",
    "SuiteTask",
    "Table",
    "Task",
    "TextFile",
    "TomlFile",
    "begun_with",
    "canonical_json",
    "decode_toml",
    "decoded",
    "delimiter",
    "first_line",
    "in_form",
    "in_words",
    "is_conversation",
    "is_refused",
    "json_values",
    "last_asked",
    "list_of",
    "matching",
    "one_of",
    "opening",
    "parse_json",
    "prompt",
    "read_bytes",
    "sha256_json",
    "stops",
]
