"""What a command prints on standard output: tables and remarks or, with --json, one JSON document and nothing else."""

import io
import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, TextIO

from evalkit.table import Table

STDOUT, STDERR = 1, 2
SCHEMA = 1


def add_json(command: ArgumentParser, what: str, or_file: bool = False) -> None:
    """Add --json to a command; `or_file`: it may name a file, into which the document is written beside what is printed."""
    if or_file:
        text = f"print {what} as JSON instead of tables, or write it into FILE beside them"
        command.add_argument("--json", metavar="FILE", nargs="?", const=True, help=text)
    else:
        command.add_argument("--json", action="store_true", help=f"print {what} as JSON instead of tables")


def wants_json(arguments: Namespace) -> bool:
    """Is the command's document to be printed? With --json FILE it is not."""
    return getattr(arguments, "json", False) is True


def json_file(arguments: Namespace) -> str | None:
    """FILE of --json FILE."""
    return arguments.json if isinstance(arguments.json, str) else None


@contextmanager
def standard_output(arguments: Namespace) -> Iterator[None]:
    """With --json, standard output is the document's alone: other lines, also of libraries and child processes, go to standard error."""
    if not wants_json(arguments):
        yield
        return
    with _document_stream() as stream, redirect_stdout(sys.stderr):
        arguments.document_stream = stream
        yield


@contextmanager
def _document_stream() -> Iterator[TextIO]:
    """Standard output as it was; meanwhile its file descriptor leads to standard error."""
    sys.stdout.flush()
    try:
        is_descriptor = sys.stdout.fileno() == STDOUT
    except (io.UnsupportedOperation, ValueError):  # not a file: a test's buffer
        is_descriptor = False
    if not is_descriptor:
        yield sys.stdout
        return
    saved = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)
    try:
        with open(saved, "w", encoding="ascii", closefd=False) as stream:
            yield stream
    finally:
        os.dup2(saved, STDOUT)
        os.close(saved)


def present(arguments: Namespace, document: Callable[[], object], show: Callable[[], object]) -> None:
    """Print a command's result: its document with --json, else its tables and remarks.

    The document is ASCII, the same bytes in every locale, and strict JSON: an infinite figure raises ValueError.
    """
    if wants_json(arguments):
        print(json.dumps(document(), indent=2, allow_nan=False), file=arguments.document_stream, flush=True)
    else:
        show()


@dataclass(frozen=True, slots=True)
class Listing:
    """What a command found, in a list: its table, the same unrounded in `records`, and remarks. `kind` names the records."""

    kind: str
    table: Table
    records: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()

    def as_json(self) -> Mapping[str, Any]:
        """The document of --json."""
        return {"schema": SCHEMA, "kind": self.kind, self.kind: self.records, "notes": self.notes}

    def show(self) -> None:
        """Print the table, unless it is empty, then the remarks."""
        from evalkit.progress import console

        screen = console()
        if self.table.rows:
            self.table.show(screen)
        for line in self.notes:
            screen.print(line, soft_wrap=True)
