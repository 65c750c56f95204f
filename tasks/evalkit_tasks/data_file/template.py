"""Prompts from Jinja templates, in a sandbox: a template sees a row's columns, and neither Python nor the right answer."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from evalkit.tasks import DataError, EvalkitError, first_line
from evalkit_tasks.data_file.table import Row, shown


class Template:
    """A template of the file `source`. Raises EvalkitError where it is not valid Jinja."""

    def __init__(self, text: str, key: str, source: str):
        from jinja2 import TemplateError

        self.key, self.source = key, source
        try:
            self._template = _environment().from_string(text)
        except TemplateError as error:
            raise EvalkitError(f"{source}: {key} is not a valid template ({first_line(error)})") from None

    def render(self, row: Row, values: Mapping[str, Any]) -> str:
        """Raises DataError where it uses what the row has not, or what the sandbox forbids."""
        from jinja2.sandbox import SecurityError

        try:
            return str(self._template.render(values))
        except SecurityError as error:
            raise EvalkitError(f"{self.source}: {self.key} does what the sandbox forbids ({first_line(error)})") from None
        except Exception as error:  # whatever a filter or an operator of the template raises
            names = ", ".join(map(repr, values))
            raise DataError(f"{row.place}: {self.source}: {self.key} can't be rendered ({first_line(error)}); it may use {names}") from None


@cache
def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_written)


def _written(value: Any) -> Any:
    """What a template writes. Raises ValueError for what would be a word of Python's or JSON's in the prompt."""
    if value is None or isinstance(value, bool | list | tuple | dict):
        raise ValueError(f"{shown(value)} would be written as it stands; write its parts")
    return value
