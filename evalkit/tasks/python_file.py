"""Tasks of a Python file of one's own: those in its TASKS, or else the Task classes that it defines.

What runs is the text whose digest is in the protocol's name and settings. An error of the file's code is one line with its place.
"""

import hashlib
import inspect
import math
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from evalkit.codec import encode
from evalkit.errors import EvalkitError, in_words
from evalkit.tasks.own import read_bytes
from evalkit.tasks.requests import Generate, Loglikelihood
from evalkit.tasks.tables import DataSource
from evalkit.tasks.task import UNSCORED, Doc, Protocol, Scored, Task

EXAMPLE = "see docs/tasks.md"
_NAME = re.compile(r"[\w.-]+")
_CALLED = ("requests", "score", "programs", "score_programs", "follow_up")  # methods of a task's own, as far as it has them


def classes(file: Path) -> dict[str, type[Task]]:
    """The tasks of the file by name. Raises EvalkitError where it can't be loaded or defines none."""
    raw = read_bytes(file)
    return _classes(file, raw)


@cache
def _classes(file: Path, raw: bytes) -> dict[str, type[Task]]:
    digest = hashlib.sha256(raw).hexdigest()
    module = _loaded(file, raw, digest)
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
        cls = _own(_checked(each, file), file, digest)
        if (name := each.name) in found:
            raise EvalkitError(f"{file} has two tasks named {name!r}; give one of them another name")
        found[name] = cls
    return found


def _loaded(file: Path, raw: bytes, digest: str) -> ModuleType:
    module = ModuleType(f"evalkit_file_{digest[:16]}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses look themselves up there
    try:
        exec(compile(raw, str(file), "exec"), module.__dict__)
    except SyntaxError as error:
        raise EvalkitError(f"{file}:{error.lineno}: not valid Python ({error.msg})") from None
    except (Exception, SystemExit) as error:
        raise EvalkitError(f"{_place(file, error)}: can't be loaded ({in_words(error)}); mend it") from error
    return module


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


def _own(cls: type[Task], file: Path, digest: str) -> type[Task]:
    """The class under its name in run.json, with protocols that name the file's digest, and with its methods' results checked."""
    name = f"{file.name}:{cls.name}"
    protocols = {
        key: replace(each, task=name, name=f"{key}+file-{digest[:8]}", settings={**each.settings, "file_sha256": digest})
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
        "load": _load(cls, file, name),
        **{method: _guarded(getattr(cls, method), file, method) for method in _CALLED if hasattr(cls, method)},
    }
    return type(cls.__name__, (cls,), body)


def _load(cls: type[Task], file: Path, name: str) -> Callable[[Task, DataSource], list[Doc]]:
    """The class's `load`, whose documents are then part of the data's hash, wherever they are from."""
    load = _guarded(cls.load, file, "load")

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


def _guarded(method: Callable[..., Any], file: Path, name: str) -> Callable[..., Any]:
    """The method; what it raises, or gives against its contract, is an error of the file's, not of evalkit."""

    @wraps(method)
    def called(self: Task, *arguments: Any) -> Any:
        try:
            found = method(self, *arguments)
        except EvalkitError:
            raise
        except Exception as error:
            raise EvalkitError(f"{_place(file, error)}: {name} failed ({in_words(error)}); mend the task") from error
        if what := _against(name, found, self.protocol):
            raise EvalkitError(f"{file}: {name} gives {what}; mend the task")
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


def _place(file: Path, error: BaseException) -> str:
    """ "FILE:LINE": where the file's code was when the error came."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"{file}:{lines[-1]}" if lines else str(file)
