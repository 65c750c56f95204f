"""A streamed answer: server-sent events, each with a piece of text that later tokens cannot change."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any

from evalkit.errors import first_line
from evalkit.lm.native_tokens import GenerateRequest, Generation
from evalkit.serve.dispatcher import Dispatcher


def heading(kind: str, object_name: str, model: str) -> dict[str, Any]:
    """The fields that begin every answer and every piece of one."""
    return {"id": f"{kind}-{secrets.token_hex(12)}", "object": object_name, "created": int(time.time()), "model": model}


def usage(prompt: int, completion: int) -> dict[str, int]:
    """The token counts in OpenAI's layout."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def finish(generation: Generation | None) -> dict[str, Any]:
    """finish_reason as in OpenAI's API; stop_reason, as in vLLM, distinguishes a stop string from the model's end of text."""
    if generation is None or generation.finish_reason == "length":
        return {"finish_reason": "length", "stop_reason": None}
    return {"finish_reason": "stop", "stop_reason": generation.stop}


def settled(text: str, stops: Sequence[str]) -> str:
    """The part of a text that later tokens cannot change: without an incomplete letter or a possible stop string at its end."""
    text = text.rstrip("\ufffd")
    for length in range(min(len(text), max(map(len, stops), default=1) - 1), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return text[:-length]
    return text


async def events(dispatcher: Dispatcher, request: GenerateRequest, name: str, kind: str, with_usage: bool) -> AsyncIterator[str]:
    """The lines of one stream. If the client disconnects, generation ends with the step."""
    updates: asyncio.Queue[str | Future[Generation]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def send(update: str | Future[Generation]) -> None:
        """Called from the dispatcher's thread."""
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(updates.put_nowait, update)

    is_chat = kind == "chat.completion"
    head = heading(kind, f"{kind}.chunk" if is_chat else kind, name)

    def line(text: str, end: dict[str, Any] | None = None, **delta: str) -> str:
        piece = {"delta": delta | ({"content": text} if text or delta else {})} if is_chat else {"text": text}
        choice = {"index": 0, **piece, "logprobs": None, **(end or {"finish_reason": None})}
        return _event(head | {"choices": [choice]})

    future = dispatcher.generate(replace(request, on_progress=lambda progress: send(progress.text)))
    future.add_done_callback(send)
    try:
        if is_chat:
            yield line("", role="assistant")
        sent = 0
        while isinstance(update := await updates.get(), str):
            text = settled(update, request.until)
            if len(text) > sent:
                yield line(text[sent:])
                sent = len(text)
        generation = update.result()
        if generation.text[sent:]:
            yield line(generation.text[sent:])
        yield line("", finish(generation))
        if with_usage:
            yield _event(head | {"choices": [], "usage": usage(len(request.prompt), len(generation.tokens))})
        yield "data: [DONE]\n\n"
    except Exception as error:  # the status line is sent, so the error can only be reported in the stream
        yield _event({"error": {"message": f"{type(error).__name__}: {first_line(error)}", "type": "server_error", "code": None}})
    finally:
        future.cancel()


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
