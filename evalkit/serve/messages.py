"""A chat's messages, as they go to the chat template: all their fields, as transformers' apply_chat_template would see them."""

from collections.abc import Sequence
from typing import Any

from evalkit.codec import is_text, parse_json
from evalkit.serve.errors import HttpError

MOST_LEVELS = 64  # of objects and lists within each other
PART_KEYS = frozenset({"type", "text", "cache_control"})  # the last says what others may keep, and is no part of the text


def conversation(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """The messages without their null fields; a tool call's arguments as an object, which is what templates write out.

    `content` is a text, a list of text parts, or null beside tool calls. Raises HttpError, which names the field, for what is none of it.
    """
    return [_message(message, f"messages.{i}") for i, message in enumerate(messages)]


def check_values(body: Any) -> None:
    """Raises HttpError where a text of a body holds a lone surrogate, which JSON can write and no text has, and for deep nesting."""
    left: list[tuple[str, Any, int]] = [("", body, 0)]
    while left:
        place, value, depth = left.pop()
        if depth > MOST_LEVELS:
            raise HttpError(f"the body is nested in more than {MOST_LEVELS} levels", param=place.partition(".")[0] or None)
        if isinstance(value, str) and not is_text(value):
            message = f"{place or 'the body'} holds a lone surrogate, which is no character; send valid Unicode"
            raise HttpError(message, param=place or None)
        if isinstance(value, dict):
            left += [(place, key, depth) for key in value]
            left += [(f"{place}.{key}" if place else key, each, depth + 1) for key, each in value.items()]
        elif isinstance(value, list):
            left += [(f"{place}.{i}", each, depth + 1) for i, each in enumerate(value) if isinstance(each, str | dict | list)]


def _message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise HttpError(f"{place} is no message: an object with a role and a content", param=place)
    found = {name: value for name, value in message.items() if value is not None}
    found["content"] = _content(message.get("content"), f"{place}.content")
    if found.pop("tool_calls", None):
        found["tool_calls"] = _tool_calls(message["tool_calls"], f"{place}.tool_calls")
    elif found["content"] is None and "function_call" not in found:
        raise HttpError(f"{place}.content is null, which only an assistant's message with tool_calls may be", param=f"{place}.content")
    return found


def _content(content: Any, place: str) -> Any:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise HttpError(f"{place} is neither a text nor a list of text parts", param=place)
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text":
            raise HttpError(f"{place}.{i} is a part of type {str(kind)[:80]!r}; this server reads text", param=f"{place}.{i}")
        if not isinstance(part.get("text"), str):
            raise HttpError(f"{place}.{i}.text is no text", param=f"{place}.{i}.text")
        if unknown := [name for name, value in part.items() if name not in PART_KEYS and value is not None]:
            raise HttpError(f"{place}.{i}.{unknown[0]} is not known of a text part; leave it out", param=f"{place}.{i}.{unknown[0]}")
    return [{"type": "text", "text": part["text"]} for part in content]


def _tool_calls(calls: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise HttpError(f"{place} is no list", param=place)
    found = []
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise HttpError(f"{place}.{i} is no call of a function: it needs function.name and function.arguments", param=f"{place}.{i}")
        arguments = _arguments(function.get("arguments"), f"{place}.{i}.function.arguments")
        found.append(call | {"function": function | {"arguments": arguments}})
    return found


def _arguments(arguments: Any, place: str) -> Any:
    """OpenAI has them as JSON in a string. As vLLM does: templates expect the object."""
    if isinstance(arguments, str) and arguments:
        try:
            arguments = parse_json(arguments)
        except ValueError as error:
            raise HttpError(f"{place} is no JSON ({error}); send an object as JSON in a string", param=place) from None
    if arguments is not None and arguments != "" and not isinstance(arguments, dict):
        raise HttpError(f"{place} is no JSON object; send one, or its JSON in a string", param=place)
    return arguments or {}
