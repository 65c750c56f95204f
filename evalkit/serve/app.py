"""The routes: OpenAI's and vLLM's request bodies in, the engine's answers out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from evalkit import __version__
from evalkit.lm.native import NativeLM
from evalkit.lm.native_tokens import TokenModel
from evalkit.serve.bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from evalkit.serve.completions import complete, completion_requests
from evalkit.serve.errors import add_error_handlers
from evalkit.serve.json_bodies import JsonRoute
from evalkit.serve.logprobs import chat_logprobs
from evalkit.serve.served import Served, answered
from evalkit.serve.stream import events, finish, heading, usage


def make_app(lm: NativeLM, name: str, max_model_len: int | None = None) -> FastAPI:
    """The server of one loaded model; `name` is its name for clients. Raises EvalkitError for a length that the model does not have."""
    served = Served(TokenModel(lm, max_model_len), name)
    model = served.model

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        served.close()

    app = FastAPI(title="evalkit", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.router.route_class = JsonRoute
    add_error_handlers(app)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [served.about()]}

    @app.get("/v1/models/{model_id:path}")
    async def one_model(model_id: str) -> dict[str, Any]:
        served.check_name(model_id)
        return served.about()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": f"evalkit {__version__}"}

    @app.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, Any]:
        return model.tokenizer_info()

    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        body.check()
        if body.messages is not None:
            ids, _ = await served.prompt_of(body.messages, body.template_settings)
        else:
            ids = await served.encode(body.prompt or "", body.add_special_tokens is not False)
        names = {"token_strs": [model.texts.name(token) for token in ids]} if body.return_token_strs else {}
        return {"tokens": ids, "count": len(ids), "max_model_len": model.max_seq_len} | names

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, str]:
        if body.tokens:
            model.check(body.tokens)
        return {"prompt": model.detokenize(body.tokens)}

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionBody, connection: Request) -> dict[str, Any] | StreamingResponse:
        served.check_body(body)
        if not body.stream:
            return await complete(served, body, connection)
        _, requests = await completion_requests(served, body)
        prompts = sum(len(request.prompt) for request in requests[:: body.choices])
        as_ids = bool(body.return_tokens_as_token_ids)
        return _streamed(events(served.dispatcher, requests, prompts, name, False, body.wants_usage, as_ids))

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatBody, connection: Request) -> dict[str, Any] | StreamingResponse:
        served.check_body(body)
        requests = await served.chat_requests(body)
        prompt = len(requests[0].prompt)
        if body.stream:
            return _streamed(events(served.dispatcher, requests, prompt, name, True, body.wants_usage))
        answers = await answered(connection, [served.dispatcher.generate(request) for request in requests])
        choices = []
        for i, answer in enumerate(answers):
            message = {"role": "assistant", "content": answer.text}
            logprobs = chat_logprobs(model, answer.tokens, answer.scores, body.num_top) if body.num_top is not None else None
            choices.append({"index": i, "message": message, "logprobs": logprobs} | finish(answer))
        counts = usage(prompt, sum(len(answer.tokens) for answer in answers))
        return heading("chat.completion", "chat.completion", name, model) | {"choices": choices, "usage": counts}

    return app


def _streamed(lines: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(lines, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
