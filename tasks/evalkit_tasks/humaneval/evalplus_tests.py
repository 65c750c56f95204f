"""EvalPlus's comparison of a function with the canonical solution (evalplus/eval/__init__.py `unsafe_execute`, at 899b2b3).

The text of this file is the test that the sandbox's checker runs (problems.py): it imports the standard library alone. Inputs have no
time limits of their own here (EvalPlus: 0.1 s, or twice the canonical solution's time); the sandbox limits the whole. A root of
find_zero is accepted as later versions do: 899b2b3 forgets to count it, so that no answer passes.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

RTOL = 1e-7
LEAST_ATOL = 1e-6  # where floats are expected and the problem names no tolerance


def comparison(candidate: Callable[..., Any], canonical: str, entry_point: str, atol: float) -> Callable[..., bool]:
    """same(*arguments): is the candidate's answer the canonical program's, within the problem's tolerance?"""
    names: dict[str, Any] = {}
    exec(compile(canonical, "<canonical>", "exec"), names)

    def same(*given: Any) -> bool:
        nonlocal atol
        wanted = names[entry_point](*copy.deepcopy(given))
        found = candidate(*given)
        if entry_point == "find_zero":  # any root will do
            return abs(sum(c * math.pow(found, i) for i, c in enumerate(given[0]))) <= atol
        if not atol and has_floats(wanted):
            atol = LEAST_ATOL  # from here on, as in EvalPlus
        return found == wanted or (atol > 0 and type(found) is type(wanted) and is_close(found, wanted, atol))

    return same


def has_floats(value: Any) -> bool:
    """A float, or a list or tuple of floats alone."""
    return isinstance(value, float) or (isinstance(value, list | tuple) and bool(value) and all(isinstance(each, float) for each in value))


def is_close(found: Any, wanted: Any, atol: float) -> bool:
    """numpy.allclose(found, wanted, RTOL, atol) for numbers and nested lists of them."""
    if isinstance(wanted, list | tuple):
        alike = isinstance(found, list | tuple) and len(found) == len(wanted)
        return alike and all(is_close(f, w, atol) for f, w in zip(found, wanted, strict=True))
    if not (isinstance(found, int | float | complex) and isinstance(wanted, int | float | complex)):
        return False
    return found == wanted or (math.isfinite(abs(wanted)) and abs(found - wanted) <= atol + RTOL * abs(wanted))
