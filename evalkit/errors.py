"""What can go wrong, and the exit code that says so. Every message is one line: what is wrong, the value, the fix.

EvalkitError           2   wrong use, bad input, not comparable
+-- DataError          2   a data file is missing, malformed, or not what its checksum says
|   +-- MissingData    2   the folder holds no such file
+-- RunIncomplete      4   the run stopped early; what is done is kept
"""

import difflib
from collections.abc import Iterable


class EvalkitError(Exception):
    """Wrong use or bad input."""

    exit_code = 2


class DataError(EvalkitError):
    """Benchmark data that is missing or malformed."""


class MissingData(DataError):
    """A folder that does not hold a file."""


class RunIncomplete(EvalkitError):
    """The run ended before its last response; the journal holds what was answered."""

    exit_code = 4


def unknown(kind: str, name: str, known: Iterable[str]) -> EvalkitError:
    """ "unknown task 'mmul'; did you mean mmlu? (known: ..)" """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return EvalkitError(f"unknown {kind} {name!r}; {hint}known: {', '.join(known)}")


def first_line(error: Exception) -> str:
    """The first line of another library's message, or the kind of error where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
