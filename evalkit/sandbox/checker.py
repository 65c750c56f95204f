"""The checker: runs a problem's test in a separate interpreter, which calls the program's function through two pipes.

Arguments go out and answers come back as plain data (wire.py), so the test compares values of its own process. A value whose __eq__
is always true, patched builtins, an exit handler or a forged marker stay in the jail and have no effect here.
Arguments are passed by value: the test does not see what the function does to a list.
"""

import builtins
import random
import re
import resource
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from evalkit.sandbox import wire
from evalkit.sandbox.result import Verdict

_DETAIL = 500
_ANSWER_BYTES = 128 << 20  # what one answer may take in the checker: a million numbers take half


class Gone(BaseException):
    """The program ended before it had answered. Not an Exception, so that a test's `except Exception` does not catch it."""


class CandidateError(Exception):
    """The program's exception, if it is not one of Python's."""


class Candidate:
    """Calls the function in the jail. `error` is the last exception from there, with its type's name."""

    def __init__(self, requests: int, answers: int):
        self._requests, self._answers = requests, answers
        self.error: tuple[BaseException | None, str] = (None, "")
        self.gone = False

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            wire.send(self._requests, (arguments, keywords))
        except BrokenPipeError:
            self.gone = True
            raise Gone from None
        return self.answer()

    def answer(self) -> Any:
        """Return the next frame's value, or raise its exception."""
        try:
            with _room_for(_ANSWER_BYTES):
                report = wire.receive(self._answers)
            if not isinstance(report, dict):
                raise wire.Malformed("an answer that is none")
            if "error" not in report:
                return report.get("value")
            name, message = str(report["error"])[:100], str(report.get("message", ""))[:_DETAIL]
        except wire.Ended:
            self.gone = True
            raise Gone from None
        except wire.Malformed as malformed:
            name, message = "TypeError", f"the answer is not plain data: {malformed}"
        except MemoryError:
            name, message = "TypeError", f"the answer takes more than {_ANSWER_BYTES:,} bytes of the test's process"
        raised = _exception(name, message)
        self.error = (raised, name)
        raise raised


@contextmanager
def _room_for(size: int) -> Iterator[None]:
    """Raise MemoryError where more than `size` bytes are taken: a frame of a few bytes a list holds lists of many."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (min(taken + size, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _exception(name: str, message: str) -> Exception:
    """One of Python's exceptions, so that a test can expect it, or a CandidateError."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(TypeError):  # UnicodeDecodeError and some others need more than a text
            return kind(message)
    return CandidateError(message)


def check(job: dict[str, Any], texts: dict[str, str], candidate: Candidate) -> dict[str, Any]:
    """A Result's verdict, error and detail, with the number of the test's line (from 1, 0 for none) but not its text, which must not leave.

    {} if the program is gone: how it ended decides. With a function, runs `test`, which defines check(candidate), as
    HumanEval's do; its helpers come from the prompt's text before the function, never from the program.
    """
    function = job["function"]
    try:
        candidate.answer()  # the program is defined or has ended; or the exception that it raised
        if function:
            _run_test(texts, function, candidate)
    except BaseException as error:
        return {} if candidate.gone else _verdict_on(error, candidate, bare=not function)
    # a test that catches everything does not turn an exit into a pass
    return {} if candidate.gone else {"verdict": Verdict.PASSED}


def _run_test(texts: dict[str, str], function: str, candidate: Candidate) -> None:
    random.seed(0)
    names: dict[str, Any] = {"__name__": "check"}
    exec(compile(_before(texts["prompt"], function), "<prompt>", "exec"), names)
    names[function] = candidate
    exec(compile(texts["test"], "<test>", "exec"), names)
    names["check"](candidate)


def _verdict_on(error: BaseException, candidate: Candidate, bare: bool) -> dict[str, Any]:
    raised, name = candidate.error
    if error is raised:
        kinds = {"MemoryError": Verdict.MEMORY, "AssertionError": Verdict.FAILED if bare else Verdict.ERROR}
        return {"verdict": kinds.get(name, Verdict.ERROR), "error": name, "detail": str(error)}
    if isinstance(error, AssertionError):
        return {"verdict": Verdict.FAILED, "error": "AssertionError", "line": _line(error)}
    return {"verdict": Verdict.ERROR, "error": type(error).__name__, "detail": str(error)[:_DETAIL], "line": _line(error)}


def _before(prompt: str, function: str) -> str:
    found = re.search(rf"^(async[ \t]+)?def[ \t]+{re.escape(function)}\b", prompt, re.MULTILINE)
    return prompt[: found.start()] if found else prompt


def _line(error: BaseException) -> int:
    """The line of the test where it was raised."""
    lines = [number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == "<test>"]
    return lines[-1] if lines else 0
