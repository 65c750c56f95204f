"""The task API: all that a task adapter imports from evalkit. `evalkit.tasks.registry` turns names into tasks."""

from evalkit.errors import DataError, MissingData
from evalkit.hashing import canonical_json, sha256_json
from evalkit.tasks.programs import FunctionCheck, Ran
from evalkit.tasks.requests import Generate, Generated, Loglikelihood, Loglikelihoods, Request, Response
from evalkit.tasks.tables import DataSource, HubTable, PackageTable, Table, TextFile
from evalkit.tasks.task import Doc, Protocol, Sampling, Scored, SuiteCell, Task

__all__ = [
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
    "SuiteCell",
    "Table",
    "Task",
    "TextFile",
    "canonical_json",
    "sha256_json",
]
