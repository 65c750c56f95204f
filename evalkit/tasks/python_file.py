"""Tasks of a Python file of one's own: those in its TASKS, or else the Task classes that it defines.

The digest of what runs (`own_file`) is in the protocol's name and settings. An error of the file's code is one line with its place.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, wraps
from pathlib import Path
from typing import Any

from evalkit.codec import encode
from evalkit.errors import EvalkitError, in_words, own_code
from evalkit.tasks.own_file import OwnFile, run_file
from evalkit.tasks.requests import Generate, Loglikelihood
from evalkit.tasks.tables import DataSource
from evalkit.tasks.task import UNSCORED, Doc, Protocol, Scored, Task

EXAMPLE = "see docs/tasks.md"
_NAME = re.compile(r"[\w.-]+")
_CALLED = ("requests", "score", "programs", "score_programs", "follow_up")  # methods of a task's own, as far as it has them


def classes(file: Path) -> dict[str, type[Task]]:
    """The tasks of the file by name. Raises EvalkitError where it defines none, OwnCodeError where it can't be run."""
    return _classes(file, run_file(file))


@cache
def _classes(file: Path, own: OwnFile) -> dict[str, type[Task]]:
    module = own.module
    if hasattr(module, "TASKS"):
        listed = module.TASKS
        if not isinstance(listed, list | tuple) or not listed:
            raise EvalkitError(f"{file}: TASKS is {listed!r:.80}; list the file's Task classes there, as in TASKS = (Capitals,)")
    else:
        listed = [each for each in vars(module).values() if _is_task(each) and each.__module__ == module.__name__]
        if not listed:
            raise EvalkitError(f"{file} defines no task; define a class below evalkit.tasks.Task, or list some in TASKS ({EXAMPLE})")
    found: dict[str, type[Task]] = {}
    for each in listed:
        cls = _own(_checked(each, file), file, own)
        if (name := each.name) in found:
            raise EvalkitError(f"{file} has two tasks named {name!r}; give one of them another name")
        found[name] = cls
    return found


def _is_task(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Task) and not inspect.isabstract(value)


def _checked(cls: Any, file: Path) -> type[Task]:
    """The class. Raises EvalkitError for what a task must have."""
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise EvalkitError(f"{file}: TASKS holds {cls!r:.80}, which is no class below evalkit.tasks.Task")
    where = f"{file}: class {cls.__name__}"
    if abstract := sorted(getattr(cls, "__abstractmethods__", ())):
        raise EvalkitError(f"{where} lacks {', '.join(abstract)} ({EXAMPLE})")
    for attribute, kind in (("name", str), ("protocols", Mapping), ("default_protocol", str)):
        if not isinstance(getattr(cls, attribute, None), kind):
            raise EvalkitError(f"{where} lacks {attribute} ({EXAMPLE})")
    if odd := [name for name in (cls.name, *cls.protocols) if not (isinstance(name, str) and _NAME.fullmatch(name))]:
        raise EvalkitError(f"{where}: {odd[0]!r} can't name a task or a protocol; use letters, digits and . _ -")
    if odd := [name for name, protocol in cls.protocols.items() if not isinstance(protocol, Protocol)]:
        raise EvalkitError(f"{where}: protocols[{odd[0]!r}] is no evalkit.tasks.Protocol")
    if odd := [name for name, protocol in cls.protocols.items() if protocol.averaging not in ("micro", "macro")]:
        raise EvalkitError(f"{where}: protocols[{odd[0]!r}] has averaging {cls.protocols[odd[0]].averaging!r}; give micro or macro")
    if cls.default_protocol not in cls.protocols:
        raise EvalkitError(f"{where}: default_protocol is {cls.default_protocol!r}, and its protocols are {', '.join(cls.protocols)}")
    return cls


def _own(cls: type[Task], file: Path, own: OwnFile) -> type[Task]:
    """The class under its name in run.json, with protocols that name the file's digest, and with its methods' results checked."""
    name = f"{file.name}:{cls.name}"
    protocols = {
        key: replace(each, task=name, name=f"{key}+file-{own.sha256[:8]}", settings={**each.settings, "file_sha256": own.sha256})
        for key, each in cls.protocols.items()
    }
    body: dict[str, Any] = {
        "__module__": cls.__module__,
        "__doc__": cls.__doc__,
        "name": name,
        "file": str(file),
        "protocols": protocols,
        "official_n": getattr(cls, "official_n", 0),
        "official_sha256": getattr(cls, "official_sha256", ""),
        "load": _load(cls, file, own, name),
        **{method: _guarded(getattr(cls, method), own, method) for method in _CALLED if hasattr(cls, method)},
    }
    return type(cls.__name__, (cls,), body)


def _load(cls: type[Task], file: Path, own: OwnFile, name: str) -> Callable[[Task, DataSource], list[Doc]]:
    """The class's `load`, whose documents are then part of the data's hash, wherever they are from."""
    load = _guarded(cls.load, own, "load")

    def loaded(self: Task, source: DataSource) -> list[Doc]:
        docs = load(self, source)
        if not isinstance(docs, list) or not all(isinstance(doc, Doc) for doc in docs):
            raise EvalkitError(f"{file}: load gives {docs!r:.80}; it must give a list of evalkit.tasks.Doc")
        if not docs:
            raise EvalkitError(f"{file}: load gives no documents")
        if odd := [doc for doc in docs if not (isinstance(doc.id, str) and doc.id and isinstance(doc.group, str))]:
            raise EvalkitError(f"{file}: load gives a document with id {odd[0].id!r:.40} and group {odd[0].group!r:.40}; give texts")
        try:
            source.note_own(name, [encode(doc) for doc in docs])
        except (TypeError, ValueError) as error:
            raise EvalkitError(f"{file}: load gives documents whose fields are no JSON ({in_words(error)})") from None
        return docs

    return loaded


def _guarded(method: Callable[..., Any], own: OwnFile, name: str) -> Callable[..., Any]:
    """The method; what it raises, or gives against its contract, is an error of the file's, not of evalkit."""

    @wraps(method)
    def called(self: Task, *arguments: Any) -> Any:
        with own_code(name, own.path):
            found = method(self, *arguments)
        if what := _against(name, found, self.protocol):
            raise EvalkitError(f"{own.path}: {name} gives {what}; mend the task")
        return found

    return called


def _against(name: str, found: Any, protocol: Protocol) -> str:
    """What a method's result has against its contract, "" for nothing."""
    if name in ("requests", "follow_up"):
        fits = isinstance(found, list | tuple) and all(isinstance(each, Generate | Loglikelihood) for each in found)
        return "" if fits and (found or name == "follow_up") else f"{found!r:.80}, where a list of Generate and Loglikelihood is expected"
    if name in ("score", "score_programs"):
        if not isinstance(found, Scored):
            return f"{found!r:.80}, where a Scored is expected"
        if found == UNSCORED:
            return ""
        if odd := [key for key, value in found.metrics.items() if not _is_score(value)]:
            return f"{odd[0]} = {found.metrics[odd[0]]!r:.40}, where a finite number is expected"
        if protocol.headline not in found.metrics and protocol.headline not in found.parts:
            return f"the metrics {', '.join(found.metrics) or 'none'}, and the protocol's headline is {protocol.headline}"
    return ""


def _is_score(value: Any) -> bool:
    """A finite number, or what a corpus metric has of a document."""
    return isinstance(value, tuple) or (isinstance(value, int | float) and math.isfinite(value))
