"""What every route has: the loaded model, its name and limits, and answers that end when their client leaves."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from fastapi import Request

from evalkit.lm.native_tokens import Dropped, GenerateRequest, TokenModel
from evalkit.serve.bodies import Body, ChatBody
from evalkit.serve.dispatcher import Dispatcher
from evalkit.serve.encoder import Encoder
from evalkit.serve.errors import CLIENT_LEFT, HttpError, failed
from evalkit.serve.messages import conversation


class Served:
    """One loaded model; `name` is its name for clients."""

    def __init__(self, model: TokenModel, name: str):
        self.model, self.name, self.started = model, name, int(time.time())
        self.dispatcher, self.encode = Dispatcher(model), Encoder(model)
        # this names all tokens, which takes seconds where the vocabulary is large: before the first client asks
        threading.Thread(target=model.texts.name, args=(0,), name="evalkit-names", daemon=True).start()

    def close(self) -> None:
        """End after what is in flight."""
        self.dispatcher.close()
        self.encode.close()

    def check_name(self, name: str) -> None:
        """Raises HttpError for another model's name."""
        if name != self.name:
            raise HttpError(f"the model {name[:200]!r} does not exist; this server has {self.name!r}", "model_not_found", "model", 404)

    def about(self) -> dict[str, Any]:
        """The model's entry in /v1/models."""
        model = self.model
        about = {"max_model_len": model.max_seq_len, "vocab_size": model.vocab_size, "fingerprint": model.lm.fingerprint}
        return {"id": self.name, "object": "model", "created": self.started, "owned_by": "evalkit", **about, "about": model.lm.describe()}

    def check_room(self, prompt: Sequence[int], new_tokens: int) -> None:
        """Raises HttpError for a prompt and answer longer than the model takes."""
        self.model.check(prompt)
        if len(prompt) + new_tokens > self.model.max_seq_len:
            raise HttpError(
                f"This model's maximum context length is {self.model.max_seq_len} tokens; "
                f"the prompt has {len(prompt)}, and {new_tokens} were asked for; shorten either",
                "context_length_exceeded",
            )

    async def prompt_of(self, messages: Sequence[Any], settings: dict[str, Any]) -> tuple[list[int], tuple[str, ...]]:
        """A chat as token ids, and its template's stop strings. Raises HttpError, which names the field, for what would be dropped."""
        try:
            return await self.encode.chat(conversation(messages), **settings)
        except Dropped as error:
            param = f"chat_template_kwargs.{error.field}" if error.field in settings.get("arguments", ()) else error.field
            raise HttpError(str(error), "unsupported_value", param) from None

    async def chat_requests(self, body: ChatBody) -> list[GenerateRequest]:
        """A request for each choice. Raises HttpError."""
        prompt, until = await self.prompt_of(body.messages, body.template_settings)
        limit = body.limit if body.limit is not None else max(1, self.model.max_seq_len - len(prompt))
        self.check_room(prompt, limit)
        return self.checked(body.requests(prompt, limit, body.num_top, until))

    def checked(self, requests: list[GenerateRequest]) -> list[GenerateRequest]:
        """The requests. Raises EvalkitError for one that would fail."""
        for request in requests:
            self.model.check_request(request)
        return requests

    def check_body(self, body: Body) -> None:
        """Raises HttpError for another model's name and for settings that are not supported."""
        body.check()
        self.check_name(body.model)


async def answered(connection: Request, futures: "Sequence[Future[Any]]") -> list[Any]:
    """The dispatcher's results. When the client leaves, or one fails, all end with the step."""
    answers = asyncio.gather(*map(asyncio.wrap_future, futures))
    answers.add_done_callback(lambda done: done.cancelled() or done.exception())  # also where nobody waits any more
    leaving = asyncio.ensure_future(_left(connection))
    try:
        await asyncio.wait((answers, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answers.done():
            raise HttpError("the client has left", status=CLIENT_LEFT)
        return answers.result()
    except Exception as error:
        raise failed(error) from None
    finally:
        leaving.cancel()
        for future in futures:
            future.cancel()


async def _left(connection: Request) -> None:
    while (await connection.receive())["type"] != "http.disconnect":
        pass
