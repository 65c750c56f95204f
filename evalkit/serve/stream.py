"""Streamed answers: server-sent events, each with a piece of text that later tokens cannot change."""

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from evalkit.lm.native_tokens import GenerateRequest, Generation, TokenModel
from evalkit.serve.dispatcher import Dispatcher
from evalkit.serve.errors import body_of, failed
from evalkit.serve.logprobs import CompletionLogprobs, chat_logprobs

BACKLOG = 64  # states of an answer that wait to be sent


def heading(kind: str, object_name: str, name: str, model: TokenModel) -> dict[str, Any]:
    """The fields that begin every answer and every piece of one; a client that keeps `system_fingerprint` can tell whose answers it has."""
    made = {"created": int(time.time()), "model": name, "system_fingerprint": model.lm.fingerprint}
    return {"id": f"{kind}-{secrets.token_hex(12)}", "object": object_name, **made}


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


class _Choice:
    """One streamed choice: what of it has been sent, and the pieces that are new."""

    def __init__(self, model: TokenModel, index: int, request: GenerateRequest, is_chat: bool, as_ids: bool):
        self.model, self.index, self.request, self.is_chat = model, index, request, is_chat
        self._stops = [stop for stop in map(model.visible, request.until) if stop]
        self._characters = self._tokens = 0
        self._layout = CompletionLogprobs(model, request.num_top or 0, as_ids)

    def begin(self) -> Iterator[dict[str, Any]]:
        """A chat's first piece has the role."""
        if self.is_chat:
            yield self._piece({"role": "assistant", "content": ""})

    def pieces(self, answer: Generation) -> Iterator[dict[str, Any]]:
        """What is new in the answer so far, or at its end."""
        has_ended = bool(answer.finish_reason)
        text = answer.text if has_ended else settled(answer.text, self._stops)
        new, asks_scores = text[self._characters :], self.request.num_top is not None
        if new or (has_ended and asks_scores and len(answer.tokens) > self._tokens):
            logprobs = self._logprobs(answer, None if has_ended else len(text)) if asks_scores else None
            yield self._piece({"content": new} if self.is_chat else new, logprobs)
            self._characters += len(new)
        if has_ended:
            yield self._piece({} if self.is_chat else "", None, finish(answer))

    def _logprobs(self, answer: Generation, settled: int | None) -> dict[str, Any] | None:
        """The entries that are new, or None. In the layout of completions they are of the tokens that begin in the text that is `settled`:
        a stop string may still cut off what comes after it, and the places of its tokens with it.
        """
        tokens, scores = answer.tokens[self._tokens :], answer.scores[self._tokens :]
        if self.is_chat:
            self._tokens += len(tokens)
            return chat_logprobs(self.model, tokens, scores, self.request.num_top or 0)
        entries = self._layout.add(tokens, scores, answer.text, settled)
        self._tokens += len(entries["tokens"])
        return entries if entries["tokens"] else None

    def _piece(self, piece: Any, logprobs: dict[str, Any] | None = None, end: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"index": self.index, "delta" if self.is_chat else "text": piece, "logprobs": logprobs} | (end or {"finish_reason": None})


class _Updates:
    """The states of each answer, put by the dispatcher's thread and taken on the event loop.

    A state tells all that those before it do. Of an answer whose client reads slowly only the newest are kept.
    """

    def __init__(self, answers: int) -> None:
        self._loop, self._arrived = asyncio.get_running_loop(), asyncio.Event()
        self._new: list[deque[Generation | Future[Generation]]] = [deque(maxlen=BACKLOG) for _ in range(answers)]

    def put(self, index: int, update: "Generation | Future[Generation]") -> None:
        """From any thread."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._receive, index, update)

    def _receive(self, index: int, update: "Generation | Future[Generation]") -> None:
        self._new[index].append(update)
        self._arrived.set()

    async def take(self) -> "list[tuple[int, Generation | Future[Generation]]]":
        """(index, state) of all that is new, once there is something."""
        await self._arrived.wait()
        self._arrived.clear()
        taken = [(i, update) for i, updates in enumerate(self._new) for update in updates]
        for updates in self._new:
            updates.clear()
        return taken


async def events(
    dispatcher: Dispatcher,
    requests: Sequence[GenerateRequest],
    prompt_tokens: int,
    name: str,
    is_chat: bool,
    wants_usage: bool,
    as_ids: bool = False,
) -> AsyncIterator[str]:
    """The lines of one stream, with the requests' answers as choices. If the client leaves, all end with the step."""
    kind = "chat.completion" if is_chat else "text_completion"
    head = heading(kind, f"{kind}.chunk" if is_chat else kind, name, dispatcher.model) | ({"usage": None} if wants_usage else {})
    choices = [_Choice(dispatcher.model, i, request, is_chat, as_ids) for i, request in enumerate(requests)]
    updates, futures, written = _Updates(len(requests)), list[Future[Generation]](), 0
    try:
        for i, request in enumerate(requests):
            future = dispatcher.generate(replace(request, on_progress=partial(updates.put, i)))
            futures.append(future)
            future.add_done_callback(partial(updates.put, i))
        for choice in choices:
            for piece in choice.begin():
                yield _event(head | {"choices": [piece]})
        left = len(choices)
        while left:
            for i, update in await updates.take():
                answer = update.result() if isinstance(update, Future) else update
                for piece in choices[i].pieces(answer):
                    yield _event(head | {"choices": [piece]})
                if answer.finish_reason:
                    left, written = left - 1, written + len(answer.tokens)
        if wants_usage:
            yield _event(head | {"choices": [], "usage": usage(prompt_tokens, written)})
        yield "data: [DONE]\n\n"
    except Exception as error:  # the status line is sent, so the error can only be told in the stream
        yield _event(body_of(failed(error))[1])
    finally:
        for future in futures:
            future.cancel()


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
