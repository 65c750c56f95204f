"""The routes: OpenAI's request bodies in, the engine's answers out, every error as OpenAI's error body."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from evalkit import __version__
from evalkit.errors import EvalkitError, first_line
from evalkit.lm.native import NativeLM
from evalkit.lm.native_tokens import GenerateRequest, Generation, TokenModel, TokenScore
from evalkit.serve.bodies import ChatBody, CompletionBody, HttpError, TokenizeBody, _Body
from evalkit.serve.dispatcher import Dispatcher
from evalkit.serve.encoder import Encoder
from evalkit.serve.stream import events, finish, heading, usage

T = TypeVar("T")


def make_app(lm: NativeLM, name: str) -> FastAPI:
    """The server of one loaded model; `name` is its name for clients."""
    model = TokenModel(lm)
    dispatcher, encode = Dispatcher(model), Encoder(model)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        dispatcher.close()
        encode.close()

    app = FastAPI(title="evalkit", version=__version__, lifespan=lifespan)
    _errors(app)
    started = int(time.time())

    def known(body: _Body) -> None:
        body.check()
        if body.model != name:
            raise HttpError(f"the model {body.model!r} does not exist; this server has {name!r}", "model_not_found", "model", 404)

    def room(prompt: Sequence[int], new_tokens: int) -> None:
        if len(prompt) + new_tokens > model.max_seq_len:
            raise HttpError(
                f"This model's maximum context length is {model.max_seq_len} tokens; "
                f"the prompt has {len(prompt)}, and {new_tokens} were asked for; shorten either",
                "context_length_exceeded",
            )

    def request(body: _Body, prompt: Sequence[int], limit: int, until: tuple[str, ...] = ()) -> GenerateRequest:
        seed = body.sampling_seed() if body.sampling_temperature else 0
        return GenerateRequest(prompt, (*body.stops, *until), limit, body.sampling_temperature, seed, body.ignore_eos)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        about = {"max_model_len": model.max_seq_len, "vocab_size": model.vocab_size, "fingerprint": lm.fingerprint, "about": lm.describe()}
        return {"object": "list", "data": [{"id": name, "object": "model", "created": started, "owned_by": "evalkit"} | about]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": f"evalkit {__version__}"}

    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        ids = await encode(body.prompt)
        return {"tokens": ids, "count": len(ids), "max_model_len": model.max_seq_len}

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionBody) -> dict[str, Any] | StreamingResponse:
        known(body)
        texts, limit = body.prompts(), body.new_tokens()
        prompts = [await encode(p) if isinstance(p, str) else p for p in texts]
        for prompt in prompts:
            model.check(prompt)
            room(prompt, limit)
        if body.stream:
            if len(prompts) > 1 or body.echo or body.logprobs is not None:
                raise HttpError("a stream takes one prompt, without echo and logprobs", param="stream")
            return _streamed(events(dispatcher, request(body, prompts[0], limit), name, "text_completion", body.wants_usage))
        generations: list[Generation | None] = [None] * len(prompts)
        if limit:
            waiting = [_done(dispatcher.generate(request(body, prompt, limit))) for prompt in prompts]
            generations = list(await asyncio.gather(*waiting))
        new = [g.tokens if g else [] for g in generations]
        choices = []
        for i, (text, generation) in enumerate(zip(texts, generations, strict=True)):
            written = generation.text if generation else ""
            choices.append({"index": i, "text": (_text(model, text) if body.echo else "") + written, "logprobs": None}
                           | finish(generation))  # fmt: skip
        if body.logprobs is not None:
            whole = [[*prompt, *tokens] for prompt, tokens in zip(prompts, new, strict=True)]
            scored = await asyncio.gather(*(_done(dispatcher.score(ids, body.logprobs)) for ids in whole))
            for choice, prompt, ids, scores in zip(choices, prompts, whole, scored, strict=True):
                choice["logprobs"] = _logprobs(model, ids, scores, 0 if body.echo else len(prompt), body.logprobs)
        return _answer("text_completion", name, choices, usage(sum(map(len, prompts)), sum(map(len, new))))

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatBody) -> dict[str, Any] | StreamingResponse:
        known(body)
        prompt, until = await encode.chat([message.as_dict() for message in body.messages])
        limit = body.limit if body.limit is not None else max(1, model.max_seq_len - len(prompt))
        room(prompt, limit)
        asked = request(body, prompt, limit, until)
        if body.stream:
            return _streamed(events(dispatcher, asked, name, "chat.completion", body.wants_usage))
        generation = await _done(dispatcher.generate(asked))
        choice = {"index": 0, "message": {"role": "assistant", "content": generation.text}, "logprobs": None}
        choices = [choice | finish(generation)]
        return _answer("chat.completion", name, choices, usage(len(prompt), len(generation.tokens)))

    return app


async def _done(future: "Future[T]") -> T:
    """The dispatcher's result. A failure of the engine is logged here and reported to the client, whose connection stays open."""
    try:
        return await asyncio.wrap_future(future)
    except EvalkitError:
        raise
    except Exception as error:
        logging.getLogger("uvicorn.error").exception("the engine failed")
        raise HttpError(f"{type(error).__name__}: {first_line(error)}", status=500) from None


def _answer(kind: str, name: str, choices: list[dict[str, Any]], used: dict[str, int]) -> dict[str, Any]:
    return heading(kind, kind, name) | {"choices": choices, "usage": used}


def _streamed(lines: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(lines, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _text(model: TokenModel, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else model.decode(prompt)


def _logprobs(model: TokenModel, ids: Sequence[int], scores: Sequence[TokenScore | None], begin: int, num_top: int) -> dict[str, Any]:
    """OpenAI's legacy layout, from token `begin` on. `top_logprobs` includes the token itself, as in vLLM."""
    texts = [model.token_text(token) for token in ids[begin:]]
    offsets, at = [], 0
    for text in texts:
        offsets.append(at)
        at += len(text)
    top: list[dict[str, float] | None] = []
    for text, score in zip(texts, scores[begin:], strict=True):
        if score is None:
            top.append(None)
            continue
        row: dict[str, float] = {}
        # tokens with the same text (bytes of a letter) share a key; the likeliest one keeps it
        for name, logprob in [*((model.token_text(token), logprob) for token, logprob in score.top[:num_top]), (text, score.logprob)]:
            row[name] = max(row.get(name, logprob), logprob)
        top.append(row)
    logprobs = [None if score is None else score.logprob for score in scores[begin:]]
    return {"tokens": texts, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets}


def _errors(app: FastAPI) -> None:
    """Add one handler for each kind of error."""

    def body(status: int, message: str, code: str | None = None, param: str | None = None) -> JSONResponse:
        kind = "invalid_request_error" if status < 500 else "server_error"
        return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return body(400, f"{where}: {first['msg']}" if where else str(first["msg"]), param=where or None)

    async def refused(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HttpError):
            return body(error.status, str(error), error.code, error.param)
        return body(400, str(error))

    async def routing(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return body(error.status_code, f"{request.method} {request.url.path}: {error.detail}")

    async def broken(request: Request, error: Exception) -> JSONResponse:
        return body(500, f"{type(error).__name__}: {first_line(error)}")

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[JSONResponse]]] = {
        RequestValidationError: invalid,
        EvalkitError: refused,
        HTTPException: routing,
        Exception: broken,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
