"""The form of a prompt: how many shots it has, and whether it is one text or a conversation that the model's own chat template writes.

A protocol in another form than its own has another name, `qwen+3-shot+chat`, and `settings["form"]` says what differs. Under the template
a header begins the first user turn, so that templates without a system role take it; a system message is what the user gives alone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.hashing import sha256_json
from evalkit.tasks.requests import Messages
from evalkit.tasks.task import Doc, Protocol

Shot = tuple[str, str]  # what is asked, and the answer to it
_PART = re.compile(r"(?P<shots>\d+)-shot|(?P<chat>chat)|(?P<single>single-turn)|system-[0-9a-f]{8}|file-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Form:
    """`num_fewshot` None: as the protocol has it. `multiturn`: under the chat template, shots are turns of the conversation."""

    num_fewshot: int | None = None
    chat: bool = False
    multiturn: bool = True
    system: str | None = None

    @property
    def suffix(self) -> str:
        """What it adds to a protocol's name; a system message counts by its hash."""
        parts = [f"{self.num_fewshot}-shot"] if self.num_fewshot is not None else []
        parts += ["chat"] if self.chat else []
        parts += ["single-turn"] if not self.multiturn else []
        parts += [f"system-{sha256_json(self.system)[:8]}"] if self.system is not None else []
        return "".join(f"+{part}" for part in parts)

    @classmethod
    def of_name(cls, name: str) -> tuple[str, "Form"]:
        """A protocol's name without the parts that say its form, and that form but for a system message. Raises EvalkitError."""
        base, *parts = name.split("+")
        form = cls()
        if len({re.sub(r"[0-9a-f]+(?=-shot)|(?<=-)[0-9a-f]{8}", "", part) for part in parts}) < len(parts):
            raise EvalkitError(f"protocol {name!r} says one thing twice; leave one of them out")
        for part in parts:
            if (found := _PART.fullmatch(part)) is None:
                raise EvalkitError(f"protocol {name!r} has the part {part!r}; a form is said as in +3-shot, +chat or +chat+single-turn")
            form = replace(
                form,
                num_fewshot=int(found["shots"]) if found["shots"] else form.num_fewshot,
                chat=form.chat or bool(found["chat"]),
                multiturn=form.multiturn and not found["single"],
            )
        return base, form

    def beside(self, other: "Form") -> "Form":
        """Both together. Raises EvalkitError where they name two numbers of shots."""
        counts = {form.num_fewshot for form in (self, other)} - {None}
        if len(counts) > 1:
            raise EvalkitError(f"--num-fewshot is {other.num_fewshot}, and the protocol's name says {self.num_fewshot}-shot; give one")
        count = next(iter(counts), None)
        return Form(count, self.chat or other.chat, self.multiturn and other.multiturn, self.system or other.system)


AS_IT_IS = Form()


def in_form(protocol: Protocol, form: Form, num_fewshot: int, is_chat: bool) -> Protocol:
    """The protocol, which has `num_fewshot` shots and may be a conversation, in another form: its number of shots is then in
    `settings["num_fewshot"]`. The form that it has already is no other. Raises EvalkitError for options that do not go together.
    """
    changes = Form(
        None if form.num_fewshot == num_fewshot else form.num_fewshot,
        form.chat and not is_chat,
        form.multiturn,
        form.system,
    )
    if not form.multiturn and not changes.chat:
        raise EvalkitError(f"{protocol}: --no-fewshot-as-multiturn has no effect without --apply-chat-template; leave it out, or give both")
    if is_chat and form.system is not None:
        raise EvalkitError(f"{protocol} is a conversation as published, without a system message; leave --system-instruction out")
    if changes == AS_IT_IS:
        return protocol
    said = {"chat": changes.chat, "multiturn": changes.multiturn, "system": changes.system}
    shots = {} if changes.num_fewshot is None else {"num_fewshot": changes.num_fewshot}
    return replace(
        protocol,
        name=f"{protocol.name}{changes.suffix}",
        summary=f"as {protocol.name}, in the form {changes.suffix}",
        settings={**protocol.settings, **shots, "form": said},
    )


def is_conversation(protocol: Protocol) -> bool:
    """Does the chat template write the prompt because of its form (a protocol's own may, too)?"""
    return bool(_form(protocol).get("chat"))


def delimiter(protocol: Protocol, text: str = " ") -> str:
    """What stands between a prompt and an answer: nothing in a conversation, where the template does."""
    return "" if is_conversation(protocol) else text


def stops(protocol: Protocol, until: Sequence[str]) -> tuple[str, ...]:
    """The stop strings. Line breaks alone end a base model's answer; in a conversation an answer has paragraphs, and ends by itself."""
    return tuple(stop for stop in until if stop.strip() or not is_conversation(protocol))


def opening(protocol: Protocol, header: str, shots: Sequence[Shot], delimiter: str, shot_end: str) -> tuple[str, Messages]:
    """What a document's prompt begins with: its prefix, and the messages before it."""
    form = _form(protocol)
    system = form.get("system")
    is_text = not form.get("chat")
    if not is_text and form["multiturn"] and shots:
        turns = [(role, text.strip("\n")) for pair in shots for role, text in zip(("user", "assistant"), pair, strict=True)]
        turns[0] = ("user", header + turns[0][1])
        return "", (*_system(system), *turns)
    prefix = header + "".join(f"{question}{delimiter}{answer}{shot_end}" for question, answer in shots)
    if is_text:
        return begun_with(protocol, prefix), ()
    return prefix, _system(system)


def begun_with(protocol: Protocol, text: str) -> str:
    """The beginning of a prompt that is one text, after the system instruction if there is one."""
    system = _form(protocol).get("system")
    return text if system is None else f"{system}\n\n{text}"


def prompt(protocol: Protocol, doc: Doc, question: str) -> tuple[str, Messages]:
    """A request's context and messages: the question after what `opening` gave the document. A turn has no line breaks around it."""
    if is_conversation(protocol):
        return "", (*doc.messages, ("user", (doc.prefix + question).strip("\n")))
    return doc.prefix + question, ()


def _form(protocol: Protocol) -> Mapping[str, Any]:
    found: Mapping[str, Any] = protocol.settings.get("form", {})
    return found


def _system(text: str | None) -> Messages:
    return () if text is None else (("system", text),)
