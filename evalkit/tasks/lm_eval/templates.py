"""The Jinja templates of a task's file: text that may not run code, unless the user allows a task's code."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from evalkit.errors import EvalkitError

_RENDERING = threading.RLock()  # lm-eval has one environment a process


@contextmanager
def rendered_for(task: str, allowed: bool) -> Iterator[None]:
    """Until it is left, lm-eval renders in a sandbox, with its own settings and filters; raises EvalkitError for what leaves that."""
    from lm_eval import utils

    with _RENDERING:
        theirs = utils.env
        try:
            if not allowed:
                utils.env = _sandbox(task, theirs)
            yield
        finally:
            utils.env = theirs


def _sandbox(task: str, theirs: Any) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

    class Sandbox(ImmutableSandboxedEnvironment):
        def handle_exception(self, source: str | None = None) -> NoReturn:
            error = sys.exc_info()[1]
            if isinstance(error, SecurityError):
                raise EvalkitError(
                    f"lm_eval:{task}: a template of its file runs code ({error}); read the file, and pass --allow-task-code"
                ) from None
            super().handle_exception(source)

    made = Sandbox(loader=theirs.loader, undefined=theirs.undefined, keep_trailing_newline=theirs.keep_trailing_newline)
    made.filters = theirs.filters
    return made
