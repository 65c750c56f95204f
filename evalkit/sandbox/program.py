"""The jailed side: runs a program, then answers calls to its function. The host treats everything from here as untrusted data."""

import os
import random
import sys
import types
from typing import Any

from evalkit.sandbox import wire

_MESSAGE = 500  # characters kept of an exception's message


def run(source: str, answers: int) -> None:
    """Run a bare program as __main__; sends one frame when it has ended."""
    _, report = _execute(source, "__main__")
    _answer(answers, report)


def serve(source: str, function: str, requests: int, answers: int) -> None:
    """Run a program that defines `function`; sends one frame when it is defined, then one per call. Returns when the caller is gone."""
    names, report = _execute(source, "candidate")
    if "error" not in report and function not in names:
        report = {"error": "NameError", "message": f"name {function!r} is not defined"}
    _answer(answers, report)
    while True:
        try:
            arguments, keywords = wire.receive(requests)
        except wire.Ended:
            return
        try:
            report = {"value": names[function](*arguments, **keywords)}
        except BaseException as error:
            report = _describe(error)
        _answer(answers, report)


def _execute(source: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    module = types.ModuleType(name)
    sys.modules[name] = module  # dataclasses and pickle look up the module of a class
    random.seed(0)
    try:
        exec(compile(source, "<program>", "exec"), vars(module))
    except BaseException as error:
        return vars(module), _describe(error)
    return vars(module), {"value": None}


def _describe(error: BaseException) -> dict[str, Any]:
    try:
        return {"error": type(error).__name__, "message": str(error)[:_MESSAGE]}
    except BaseException:
        return {"error": "Exception", "message": "an exception without a text"}


def _answer(answers: int, report: dict[str, Any]) -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # the program's own stdout, or none
        pass
    try:
        wire.send(answers, report)
    except OSError:
        os._exit(0)  # the other end is gone
    except (TypeError, ValueError, RecursionError, MemoryError) as error:
        wire.send(answers, _describe(error))
