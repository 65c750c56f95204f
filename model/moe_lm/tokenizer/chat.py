"""Chat templates: a conversation as the one text that the model was trained to see.

The environment is that of transformers' apply_chat_template, so that a template gives the same text here. Templates come with
checkpoints, from strangers: they run in jinja2's sandbox, which keeps them from Python's internals, from changing what they are
given, and from loops over more than 100,000 numbers. It does not bound the time that loops within loops take.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from moe_lm.errors import ModelError

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": ..}


def render(
    messages: Sequence[Message], template: str | None, bos_token: str = "", eos_token: str = "", add_generation_prompt: bool = True
) -> str:
    """The conversation as text, special tokens written out; where no message has the role "system", what the template puts there.

    Raises ModelError, in one line, where there is no template or it fails: by its own raise_exception, a syntax error, an unsafe
    access, or anything else that a program can do wrong.
    """
    if not template:
        raise ModelError("the model has no chat template; leave out --chat and write the prompt as the model knows it")
    try:
        return (
            _environment()
            .from_string(template)
            .render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                # an unnamed token is undefined, not empty: some templates ask
                **{name: token for name, token in (("bos_token", bos_token), ("eos_token", eos_token)) if token},
            )
        )
    except Exception as error:  # a template is a program: any exception may come out of it
        kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
        raise ModelError(f"the model's chat template failed: {kind}{' '.join(str(error).split())}") from None


class _Generation(Extension):
    """{% generation %} marks what the assistant wrote, for training; its content is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012 (the base class declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise, "strftime_now": lambda layout: datetime.now().strftime(layout)}
    return environment


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    # jinja2's own escapes <, > and & for HTML
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
