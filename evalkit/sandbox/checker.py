"""The checker: runs a problem's test in an interpreter of its own, the program's function at the end of two pipes.

The test compares values that it owns: arguments go out as plain data, answers come back as plain data (wire.py). So a value
whose __eq__ is always true, patched builtins, an exit handler or a forged marker stay in the jail and change nothing here.
Arguments are passed by value: what the function does to a list is not seen by the test.
"""

import builtins
import random
import re
import traceback
from contextlib import suppress
from typing import Any

from evalkit.sandbox import wire
from evalkit.sandbox.result import Verdict

_DETAIL = 500


class Gone(BaseException):
    """The program left before it had answered. Not an Exception: a test that catches those does not catch this."""


class CandidateError(Exception):
    """The program's exception, where it is not one of Python's own."""


class Candidate:
    """Calls the function in the jail. `error` is the last exception that came from there, with its type's name."""

    def __init__(self, requests: int, answers: int):
        self._requests, self._answers = requests, answers
        self.error: tuple[BaseException | None, str] = (None, "")
        self.gone = False

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            wire.send(self._requests, wire.encode((arguments, keywords)))
        except BrokenPipeError:
            self.gone = True
            raise Gone from None
        return self.answer()

    def answer(self) -> Any:
        """The next frame's value, or its exception raised."""
        try:
            report = wire.receive(self._answers)
            if not isinstance(report, dict):
                raise wire.Malformed("an answer that is none")
            if "error" not in report:
                return wire.decode(report.get("value"))
            name, message = str(report["error"])[:100], str(report.get("message", ""))[:_DETAIL]
        except wire.Ended:
            self.gone = True
            raise Gone from None
        except (wire.Malformed, MemoryError) as malformed:
            name, message = "TypeError", f"the answer is not plain data: {malformed}"
        raised = _exception(name, message)
        self.error = (raised, name)
        raise raised


def _exception(name: str, message: str) -> Exception:
    """One of Python's own, so that a test can expect it; else a CandidateError."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(TypeError):  # UnicodeDecodeError and its like want more than a text
            return kind(message)
    return CandidateError(message)


def check(job: dict[str, Any], texts: dict[str, str], candidate: Candidate) -> dict[str, Any]:
    """A Result's verdict, error and detail, and the test's line (from 1, 0 for none) in place of its text, which must not leave here.

    {} where the program is gone, and how it ended must tell. With a function, runs `test`, which defines check(candidate), as
    HumanEval's do; helpers that it names come from the prompt's own text before the function, never from the program.
    """
    function = job["function"]
    try:
        candidate.answer()  # the program is defined, or has reached its end; or what it raised
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
    """Where in the test it was raised."""
    lines = [number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == "<test>"]
    return lines[-1] if lines else 0
