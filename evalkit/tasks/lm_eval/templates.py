"""The Jinja templates of a task's file: they may not run code, unless the user allows a task's code, nor write a null."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from evalkit.errors import EvalkitError
from evalkit.tasks.lm_eval.checks import require_written

_RENDERING = threading.RLock()  # lm-eval has one environment a process


@contextmanager
def rendered_for(task: str, allowed: bool) -> Iterator[None]:
    """Until it is left, lm-eval renders with its own settings and filters, in a sandbox unless a task's code is allowed.

    Raises EvalkitError for a template that reaches for code, and DataError for one that writes a null.
    """
    from lm_eval import utils

    with _RENDERING:
        theirs = utils.env
        try:
            utils.env = _environment(task, allowed, theirs)
            yield
        finally:
            utils.env = theirs


def _environment(task: str, allowed: bool, theirs: Any) -> Any:
    from jinja2 import Environment, pass_context
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

    class Sandbox(ImmutableSandboxedEnvironment):
        def handle_exception(self, source: str | None = None) -> NoReturn:
            error = sys.exc_info()[1]
            if isinstance(error, SecurityError):
                raise EvalkitError(
                    f"lm_eval:{task}: a template of its file does what the sandbox forbids ({str(error).rstrip('.')}); "
                    "read the file, and pass --allow-task-code"
                ) from None
            super().handle_exception(source)

    @pass_context
    def written(context: Any, value: Any) -> Any:
        require_written(value, context.parent, task)
        return value

    settings = {"loader": theirs.loader, "undefined": theirs.undefined, "keep_trailing_newline": theirs.keep_trailing_newline}
    made = (Environment if allowed else Sandbox)(finalize=written, **settings)
    made.filters = theirs.filters
    return made
