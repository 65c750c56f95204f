"""What can go wrong, and the exit code that says so. Every message is one line: what is wrong, the value, the fix.

EvalkitError           2   wrong use, bad input, not comparable
+-- DataError          2   a data file is missing, malformed, or not what its checksum says
|   +-- MissingData    2   the folder has no such file
+-- OwnCodeError       2   an exception in Python code of the user's own; the message names its line and the file with the traceback
+-- RunIncomplete      4   the run stopped early; what is done is kept
|   +-- Interrupted    4   by Ctrl-C or a signal
|   +-- OutOfTime      4   by a deadline
|   +-- RequestsSetAside  4  two workers were lost with some requests
+-- Undecided          3   a gate had to stop before its first look
+-- InternalError      5   a bug in evalkit; the message names the file with the traceback

No error ends with 1: that is a gate that failed.
"""

import difflib
import os
import platform
import re
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

DISTRIBUTION = "evalkit-lm"  # what pip installs; the name evalkit is another project's on PyPI


def pip_install(extra: str) -> str:
    """The command that installs what an optional part of evalkit needs."""
    return f"`pip install '{DISTRIBUTION}[{extra}]'`"


class EvalkitError(Exception):
    """Wrong use or bad input."""

    exit_code = 2


class DataError(EvalkitError):
    """Benchmark data that is missing or malformed."""


class MissingData(DataError):
    """A folder that lacks a file."""


class OwnCodeError(EvalkitError):
    """An exception in Python code of the user's own, which is input like any other."""


class RunIncomplete(EvalkitError):
    """The run ended before its last response; the journal has all responses so far."""

    exit_code = 4


class Interrupted(RunIncomplete):
    """The user, or whoever sent a signal, wants it to stop."""


class OutOfTime(RunIncomplete):
    """The time that a run was given is over."""


class RequestsSetAside(RunIncomplete):
    """Some requests have no answer, since workers were lost with them; all others have."""


class Undecided(EvalkitError):
    """A gate had to stop before it could look at any document: neither a pass nor a fail."""

    exit_code = 3


class InternalError(EvalkitError):
    """An unexpected exception, which is a bug."""

    exit_code = 5


def unknown(kind: str, name: str, known: Iterable[str]) -> EvalkitError:
    """ "unknown task 'mmul'; did you mean mmlu? (known: ..)" """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return EvalkitError(f"unknown {kind} {name!r}; {hint}known: {', '.join(known) or 'none, there is nothing to choose from'}")


def first_line(error: BaseException) -> str:
    """The first line of another library's message, without an error's number, or the kind of error if it gives no message."""
    try:
        message = str(error)
    except Exception:
        message = ""
    line = next(iter(message.strip().splitlines()), "")
    return re.sub(r"^\[Errno -?\d+\] ", "", line) or type(error).__name__


def printable(text: str) -> str:
    """The text without control, bidi or unpaired surrogate characters, which a terminal would act on: they are escaped as in Python.

    Line breaks and tabs stay.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def keeping_traceback(folder: Path | None = None) -> Iterator[None]:
    """An unexpected exception becomes an InternalError, whose message names the file with its traceback."""
    try:
        yield
    except (EvalkitError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a Rust library is not an Exception
        raise InternalError(
            f"internal error: {in_words(error)}; {traceback_kept(error, folder)}, please report it with this file"
        ) from error


@contextmanager
def own_code(what: str, file: Path | None) -> Iterator[None]:
    """Whatever code of the user's own in `file` raises becomes an OwnCodeError; `what` says what the code is."""
    try:
        yield
    except (EvalkitError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too
        place = f"{file}{_line_in(file, error)}: " if file else ""
        raise OwnCodeError(f"{place}{what} failed ({in_words(error)}); {traceback_kept(error)}") from error


def _line_in(file: Path, error: BaseException) -> str:
    """ " line 7", the last one of the file that ran; "" where none did."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f" line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f" line {lines[-1]}" if lines else ""


def in_words(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    line = first_line(error)
    return line if line == type(error).__name__ else f"{type(error).__name__}: {line}"


def traceback_kept(error: BaseException, folder: Path | None = None) -> str:
    """Write an error's traceback into a new file and say where: in `folder`, or else in the temporary directory.

    The file's name is unpredictable, it is newly created (no link is followed), and only this user can read it.
    """
    from evalkit import __version__

    head = f"evalkit {__version__}, Python {platform.python_version()}, {platform.platform()}\n\n"
    text = head + "".join(traceback.format_exception(error))
    for place in (folder, None):
        try:
            fd, name = tempfile.mkstemp(".txt", "traceback-", place)
        except OSError:  # the folder does not exist yet or cannot be written, or there is no temporary directory
            continue
        try:
            with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            os.unlink(name)
            continue
        return f"the traceback is in {name}"
    return "the traceback could not be written to any folder"
