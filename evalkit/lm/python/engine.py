"""The engine of a model of one's own: calls its methods, some requests at a time, and checks every result.

The object knows nothing of evalkit. It is given lists of requests, and returns or yields one result for each, in their order. A call's
results are checked as a whole before the first of them counts: one that is missing in the middle would give all later ones to the wrong
requests.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError, own_code
from evalkit.hashing import sha256_json
from evalkit.lm.base import LM
from evalkit.lm.python import results
from evalkit.lm.python.contract import FORMS, METHODS, require_methods, takes
from evalkit.lm.python.file import read_class
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods, Request
from evalkit.tasks.own_file import OwnFile

NUMERICS = 1  # raise it when what is asked of a model for a request changes: old answers then no longer match
BATCH = 64  # requests of a call, unless the object has a batch_size: a call's answers are in the journal once it returns
NOT_PROVEN = (
    "layout invariance is not proven for a model of one's own: an answer may depend on what is asked beside it; evalkit verify tests it"
)
BY_FILE = (
    "fingerprint: {} and what it imports, and what --model names; give {} a fingerprint() where anything else decides its answers, "
    "such as weights or a server"
)
UNKNOWN = "no fingerprint: no answer of an earlier run is used, and none of this run by a later one; give {} a fingerprint() to resume"
UNCUT = "requests that may be above their protocol's limit of {} tokens (truncate_above, max_total_tokens), which {} alone can keep: {:,}"
A = TypeVar("A")  # what is asked
R = TypeVar("R")  # the response


def require_class(model: ModelSpec, argument: str) -> None:
    """Raises EvalkitError where FILE:CLASS names no class that can be a model. The file is run; no object is made."""
    _ = _checked(model, argument)


def _checked(model: ModelSpec, argument: str) -> tuple[OwnFile, type]:
    own, cls = read_class(argument)
    name = f"{cls.__name__} in {own.path}"
    require_methods(cls, name)
    require_no_device(model)
    if not takes(cls, 1 if model.spec else 0):
        signature = inspect.signature(cls)
        if model.spec:
            raise EvalkitError(f"{name} takes {signature}, not the one argument that --model {model.spec} gives it; leave --model out")
        raise EvalkitError(f"{name} takes {signature}, and is made without arguments unless --model gives it one; add --model, or defaults")
    return own, cls


def require_no_device(model: ModelSpec) -> None:
    """Raises EvalkitError for a device or a precision, which are for the user's own code to choose."""
    if odd := [each for each in ("device", "dtype") if getattr(model, each) != "auto"]:
        raise EvalkitError(f"{odd[0]} is {getattr(model, odd[0])!r}, which a model of one's own can't be told; leave it out")


def own_model(model: Any, engine: str) -> PythonLM:
    """The engine of an object, or a callable, that a program gives as its model. Raises EvalkitError for anything else."""
    if isinstance(model, type):
        raise EvalkitError(f"model is the class {model.__name__}; give an object of it, as in model={model.__name__}()")
    is_model = any(hasattr(model, method) for method in METHODS)
    if not is_model and not callable(model):
        raise EvalkitError(
            f"model is {model!r:.40}; give a SPEC as a text, an object with the methods {FORMS}, or a callable, prompt -> text"
        )
    if engine != "native":
        raise EvalkitError(f"engine is {engine!r}, and the model an object, which is an engine of its own; leave engine out")
    name = getattr(model, "__name__", type(model).__name__)
    name = name if isinstance(name, str) and name.isidentifier() else "callable"
    try:
        file = Path(inspect.getfile(model if inspect.isroutine(model) else type(model)))
    except (TypeError, OSError):  # written in C, or in a shell
        file = None
    return PythonLM(model, name, file=file) if is_model else PythonLM(_Called(model, name), name, file=file)


class PythonLM(LM):
    """An object of the user's own. `spec`: the --model that it was made with; `digest`: of the code, None where that is not known."""

    def __init__(self, own: Any, name: str, spec: str | None = None, file: Path | None = None, digest: str | None = None):
        """Raises EvalkitError for an object that can't be a model, or says of itself what can't be recorded."""
        self.own, self.file, self.name = own, file, name
        require_methods(own, name)
        self.batch_size = getattr(own, "batch_size", BATCH)
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise EvalkitError(f"{name}.batch_size is {self.batch_size!r:.40}, expected a whole number, 1 or more")
        with own_code(f"{name}.name or .num_parameters", file):
            said_name, said_number = getattr(own, "name", None), getattr(own, "num_parameters", None)
            said_number = said_number() if callable(said_number) else said_number  # as transformers' models have it
        if not isinstance(said_name, str | None):
            raise EvalkitError(f"{name}.name is {said_name!r:.40}, expected a text")
        self.spec, self.parameters = said_name or spec or name, _parameters(name, said_number)
        self.notices = [NOT_PROVEN]
        if hasattr(own, "fingerprint"):
            with own_code(f"{name}.fingerprint", file):
                said = own.fingerprint()
            if not isinstance(said, str) or not said:
                raise EvalkitError(f"{name}.fingerprint() is {said!r:.40}, expected a text: other for every model with other answers")
            digest = said
        else:
            self.notices.append(BY_FILE.format(file, name) if digest else UNKNOWN.format(name))
        known = [name, digest, spec, _content(spec)] if digest else secrets.token_hex(16)
        self.fingerprint = "sha256:" + sha256_json(["python", NUMERICS, known])
        self._uncut: dict[Request, int] = {}

    @classmethod
    def load(cls, model: ModelSpec, argument: str) -> PythonLM:
        """Make an object of the class that FILE:CLASS names. Raises EvalkitError."""
        file, own_class = _checked(model, argument)
        with own_code(f"{own_class.__name__}()", file.path):
            own = own_class(model.spec) if model.spec else own_class()
        digest = sha256_json([file.sha256, *file.packages])
        return cls(own, own_class.__name__, model.spec, file.path, digest)

    def loglikelihood(self, requests: Sequence[Loglikelihood]) -> Iterator[tuple[int, Loglikelihoods]]:
        asked = [self._rendered(request) for request in requests]
        for request in asked:
            if request.truncate_above is not None and len(request.context.encode()) >= request.truncate_above:  # a token is a byte or more
                self._uncut[request] = request.truncate_above
        yield from self._answers("loglikelihood", asked, results.loglikelihoods)

    def loglikelihood_rolling(self, texts: Sequence[str]) -> Iterator[tuple[int, float]]:
        yield from self._answers("loglikelihood_rolling", texts, results.rolling)

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
        asked = [self._rendered(request) for request in requests]
        for request in asked:
            limit = request.max_total_tokens
            if limit is not None and len(request.context.encode()) + request.max_new_tokens >= limit:
                self._uncut[request] = limit
        yield from self._answers("generate", asked, results.generated)

    def _answers(self, method: str, asked: Sequence[A], read: Callable[[str, A, Any], R]) -> Iterator[tuple[int, R]]:
        """Call the method for some requests after the others; `read` makes a response of each result."""
        where = self.name if isinstance(self.own, _Called) else f"{self.name}.{method}"
        for start in range(0, len(asked), self.batch_size):
            some = list(asked[start : start + self.batch_size])
            with own_code(where, self.file):
                given = getattr(self.own, method)(list(some))
            if isinstance(given, str | bytes | dict | Loglikelihoods | Generated) or not hasattr(given, "__iter__"):
                raise EvalkitError(
                    f"{where} gave {results.shown(given)} for {len(some)} requests; give a list with a result for each, or yield them"
                )
            with own_code(where, self.file):
                listed = list(given)
            if len(listed) != len(some):
                raise EvalkitError(f"{where} gave {len(listed)} results for {len(some)} requests; give one for each, in their order")
            yield from enumerate([read(where, request, result) for request, result in zip(some, listed, strict=True)], start)

    def _rendered(self, request: Any) -> Any:
        """The request with its conversation, if it has one, written as the beginning of the context. Raises EvalkitError."""
        if not request.messages:
            return request
        method = f"{self.name}.apply_chat_template"
        if not hasattr(self.own, "apply_chat_template"):
            raise EvalkitError(
                f"{self.name} is asked a conversation, and has no apply_chat_template(messages), which writes one as a prompt; add it, or "
                "choose a protocol without conversations"
            )
        with own_code(method, self.file):
            prompt = self.own.apply_chat_template([{"role": role, "content": content} for role, content in request.messages])
        if not isinstance(prompt, str):
            raise EvalkitError(f"{method} gave {prompt!r:.60}, expected the prompt as a text")
        return replace(request, context=prompt + request.context, messages=())

    def describe(self) -> dict[str, Any]:
        notices = list(self.notices)
        if self._uncut:
            limits = " or ".join(f"{limit:,}" for limit in sorted(set(self._uncut.values())))
            notices.append(UNCUT.format(limits, self.name, len(self._uncut)))
        return {"spec": self.spec, "parameters": self.parameters, "layout_invariant": False, "notices": notices}


class _Called:
    """A callable as an object with the methods of a model."""

    batch_size = 1

    def __init__(self, function: Callable[[str], str], name: str):
        self.function, self.callable_name = function, name
        for each in ("name", "num_parameters", "fingerprint", "apply_chat_template"):
            if hasattr(function, each):
                setattr(self, each, getattr(function, each))

    def loglikelihood(self, requests: Sequence[Loglikelihood]) -> Sequence[Any]:
        raise self._lacks("log-probabilities")

    def loglikelihood_rolling(self, texts: Sequence[str]) -> Sequence[Any]:
        raise self._lacks("log-probabilities")

    def generate(self, requests: Sequence[Generate]) -> Iterator[Any]:
        for request in requests:
            if request.temperature:
                raise self._lacks(f"answers sampled at temperature {request.temperature:g}")
            yield self.function(request.context)

    def _lacks(self, what: str) -> EvalkitError:
        return EvalkitError(
            f"{self.callable_name} is a callable, prompt -> text, and the task asks for {what}; give an object with a model's methods, "
            "or other tasks"
        )


def _parameters(name: str, value: Any) -> dict[str, int] | None:
    """How many parameters the object says that it has: a number, or (total, activated)."""
    if value is None:
        return None
    both = value if isinstance(value, tuple) else (value, value)
    if len(both) != 2 or not all(type(each) is int and each > 0 for each in both):
        raise EvalkitError(f"{name}.num_parameters is {value!r:.40}, expected a whole number, or two: (total, activated)")
    return {"total": both[0], "activated": both[1]}


def _content(spec: str | None) -> str | None:
    """A digest of the file or folder that --model names; None where it names none."""
    place = Path(spec).expanduser() if spec else None
    if place is None or not os.path.exists(place):
        return None
    files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
    digests = []
    try:
        for file in files:
            with open(file, "rb") as raw:
                digests.append([str(file.relative_to(place)), hashlib.file_digest(raw, "sha256").hexdigest()])
    except OSError as error:
        raise EvalkitError(f"--model {spec}: cannot read {file}: {error.strerror}, and its digest is part of the fingerprint") from None
    return sha256_json(digests)
