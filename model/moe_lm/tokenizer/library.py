"""Calls of the `tokenizers` library, whose errors are of no particular kind."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from moe_lm.errors import ModelError
from moe_lm.files import one_line

P = ParamSpec("P")
T = TypeVar("T")


def attempt(failure: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The call's result. Raises ModelError, `failure` with the library's reason, where it raises or panics."""
    try:
        return call(*args, **kwargs)
    except (ModelError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library raises plain Exception, and its panics are BaseException
        raise ModelError(f"{failure} ({one_line(str(error))})") from None
