"""What a class or an object has to have to be a model, checked before it is asked anything."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from evalkit.errors import EvalkitError

METHODS = {"loglikelihood": "requests", "loglikelihood_rolling": "texts", "generate": "requests"}
OPTIONAL = {"apply_chat_template": ("messages",), "fingerprint": ()}
FORMS = ", ".join(f"{name}({parameter})" for name, parameter in METHODS.items())


def require_methods(own: Any, name: str) -> None:
    """Raises EvalkitError for a class, or an object, that lacks one of METHODS or has one that can't be called as it will be."""
    if lacking := [f"{each}({parameter})" for each, parameter in METHODS.items() if not callable(getattr(own, each, None))]:
        raise EvalkitError(f"{name} has no {', no '.join(lacking)}; a model has the methods {FORMS}")
    parameters: Mapping[str, tuple[str, ...]] = {each: (parameter,) for each, parameter in METHODS.items()} | OPTIONAL
    for each, names in parameters.items():
        if (method := getattr(own, each, None)) is not None:
            _require_callable(own, name, each, method, names)


def _require_callable(own: Any, name: str, each: str, method: Any, names: tuple[str, ...]) -> None:
    form = f"{each}({', '.join(names)})"
    if not callable(method):
        raise EvalkitError(f"{name}.{each} is {method!r:.40}, not a method; it is called as {form}")
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        raise EvalkitError(f"{name}.{each} is async, and is called as {form}: make it a plain method, which may be a generator")
    unbound = isinstance(own, type) and not isinstance(inspect.getattr_static(own, each), staticmethod | classmethod)
    if not takes(method, len(names) + unbound):
        raise EvalkitError(f"{name}.{each}{inspect.signature(method)} can't be called as it will be, {form}; give it these parameters")


def takes(function: Callable[..., Any], count: int) -> bool:
    """Can it be called with so many arguments by position? True where that is not known, as of what is written in C."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        pass
    return True
