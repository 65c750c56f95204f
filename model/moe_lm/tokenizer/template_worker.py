"""The process in which chat templates run: it reads requests from standard input and answers on standard output (`chat.py` starts it).

Templates come with checkpoints, from strangers. jinja2's sandbox keeps them from Python's internals, but nothing within a process bounds
the time and memory of a string doubled in a loop, of `'a' * 3000000000` or of a number padded to a billion digits. The kernel
does: the limits here end the process, and `chat.py` says why.

The file is run by its path: it imports the standard library and jinja2, and no other module of this package.
"""

import json
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, BinaryIO, NoReturn

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

LENGTH_BYTES = 8  # in front of every request and answer, little-endian
CPU_SECONDS = 0.8  # for one conversation, with the compilation of the template
DATA_BYTES = 512 << 20  # of the whole process
ADDRESS_BYTES = 1 << 30  # address space: also where the kernel does not count DATA_BYTES
OWN_CHARACTERS = 1 << 20  # what a template may add by itself
TIMES_LONGER = 8  # and how often it may repeat what it is given

REASONING = ("reasoning_content", "thinking", "reasoning")  # names of one field of a message; transformers gives all templates the first


class _Watched(dict[str, Any]):
    """A message that knows which of its fields the template has read."""

    def __init__(self, fields: Mapping[str, Any]):
        super().__init__(fields)
        self._read: set[str] = set()  # the underscore hides it from templates

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._read.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self._read.add(str(name))
        return super().__contains__(name)

    def _all(self) -> None:
        self._read.update(super().keys())

    def items(self) -> Any:
        self._all()
        return super().items()

    def values(self) -> Any:
        self._all()
        return super().values()

    def copy(self) -> dict[str, Any]:
        self._all()
        return super().copy()

    def __iter__(self) -> Iterator[str]:  # also so that dict(message) reads the fields one by one
        return super().__iter__()

    def __repr__(self) -> str:
        self._all()
        return super().__repr__()


class _Generation(Extension):
    """{% generation %} marks what the assistant wrote, for training; its content is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012 (the base class declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _PublicNamespace(Namespace):
    """As in transformers: no attribute that begins with an underscore, through which Python's internals could be reached."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise TemplateError(f"a namespace's attribute may not begin with an underscore: {name!r}")
        super().__setitem__(name, value)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    # jinja2's own escapes <, > and & for HTML
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def environment() -> ImmutableSandboxedEnvironment:
    """That of transformers' apply_chat_template, so that a template gives the same text here."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _tojson
    made.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda layout: datetime.now().strftime(layout),
        "namespace": _PublicNamespace,
    }
    return made


class ChatTemplate:
    """A compiled template, the variables that it asks for, and whether it goes through the parts of a message's content by itself."""

    def __init__(self, text: str):
        made = environment()
        tree = made.parse(text)
        self.variables = meta.find_undeclared_variables(tree)
        self.takes_parts = _takes_parts(tree)
        self.template: Template = made.from_string(text)

    def render(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """{"text"}, or {"refused", "field"} with what the caller gave and the template would drop."""
        for name in ("tools", "documents"):
            if asked["variables"].get(name) and name not in self.variables:
                return {"refused": f"the model's chat template takes no {name}", "field": name}
        for name in asked["arguments"]:
            if name not in self.variables:
                known = ", ".join(sorted(self.variables - asked["variables"].keys() - {"messages"})) or "none"
                return {"refused": f"the model's chat template has no argument {name!r}; it has {known}", "field": name}
        messages = [_Watched(self._fields(message)) for message in asked["messages"]]
        text = self.template.render(**asked["variables"], **asked["arguments"], messages=messages)
        for i, (message, given) in enumerate(zip(messages, asked["messages"], strict=True)):
            for name in given:
                if name not in ("role", "content") and message._read.isdisjoint(REASONING if name in REASONING else (name,)):
                    return {"refused": f"the model's chat template does not read a message's {name!r}", "field": f"messages.{i}.{name}"}
        return {"text": text}

    def _fields(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The message as transformers gives it to a template; text parts as vLLM joins them where the template wants one text."""
        fields = dict(message)
        if isinstance(fields.get("content"), list) and not self.takes_parts:
            fields["content"] = "\n".join(part["text"] for part in fields["content"])
        reasoning = next((fields[name] for name in REASONING if fields.get(name) is not None), None)
        return fields if reasoning is None else {"thinking": reasoning, **fields, "reasoning_content": reasoning}


def _takes_parts(tree: nodes.Template) -> bool:
    """Whether a loop goes over a message's content, or over a variable that holds it."""

    def is_content(node: nodes.Node) -> bool:
        if isinstance(node, nodes.Filter) and node.node is not None:
            return is_content(node.node)
        if isinstance(node, nodes.Getattr):
            return node.attr == "content"
        if isinstance(node, nodes.Getitem):
            return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
        return isinstance(node, nodes.Name) and node.name in held

    held: set[str] = set()
    for each in tree.find_all(nodes.Assign):
        if isinstance(each.target, nodes.Name) and is_content(each.node):
            held.add(each.target.name)
    for macro in tree.find_all(nodes.Macro):  # a macro that is called with the content
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == macro.name:
                held |= {arg.name for arg, given in zip(macro.args, call.args, strict=False) if is_content(given)}
    return any(is_content(loop.iter) for loop in tree.find_all(nodes.For))


def answer(asked: Mapping[str, Any], known: dict[str, ChatTemplate]) -> dict[str, Any]:
    """What `chat.py` gets for one request: ChatTemplate.render's, or {"failed"}, or {"memory"}."""
    try:
        if asked["template"] not in known:
            known.clear()
            known[asked["template"]] = ChatTemplate(asked["template"])
        return known[asked["template"]].render(asked)
    except MemoryError:
        return {"memory": True}
    except Exception as error:  # a template is a program: any exception may come out of it
        kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
        return {"failed": kind + " ".join(str(error)[:1000].split())}


def limit_this_process() -> None:
    """From here on the kernel refuses memory beyond the limits."""
    for kind, most in ((resource.RLIMIT_DATA, DATA_BYTES), (resource.RLIMIT_AS, ADDRESS_BYTES), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (most, hard))
        except (OSError, ValueError):  # macOS knows some of them by name only
            continue


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the requests end, each within CPU_SECONDS: SIGPROF ends the process where it is not handled."""
    known: dict[str, ChatTemplate] = {}
    while length := requests.read(LENGTH_BYTES):
        size = int.from_bytes(length, "little")
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            found = answer(json.loads(requests.read(size)), known)
            if len(found.get("text", "")) > OWN_CHARACTERS + TIMES_LONGER * size:
                found = {"failed": f"it makes {len(found['text'])} characters of a conversation of {size} bytes"}
            encoded = json.dumps(found).encode()
        except MemoryError:
            encoded = b'{"memory": true}'
        except RecursionError:
            encoded = b'{"failed": "what it is given is nested too deeply"}'
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded)
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    limit_this_process()
    serve(sys.stdin.buffer, sys.stdout.buffer)
