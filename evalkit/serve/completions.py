"""/v1/completions: texts continued, and the log-probabilities of their tokens."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request

from evalkit.lm.native_tokens import GenerateRequest, Generation, PromptScores
from evalkit.serve.bodies import CompletionBody
from evalkit.serve.logprobs import CompletionLogprobs
from evalkit.serve.served import Served, answered
from evalkit.serve.stream import finish, heading, usage


async def completion_requests(served: Served, body: CompletionBody) -> tuple[list[str | list[int]], list[GenerateRequest]]:
    """The prompts as they were given, and a request for each choice of each of them. Raises HttpError."""
    given, limit = list(body.prompts()), body.new_tokens()
    requests: list[GenerateRequest] = []
    for prompt in given:
        ids = await served.encode(prompt) if isinstance(prompt, str) else prompt
        served.check_room(ids, limit)
        made = body.requests(ids, limit, body.logprobs)
        requests += served.checked(made) if limit else made
    return given, requests


async def complete(served: Served, body: CompletionBody, connection: Request) -> dict[str, Any]:
    """The answer to one body that is not streamed."""
    given, requests = await completion_requests(served, body)
    scores: Sequence[PromptScores | None] = [None] * len(given)
    dispatcher, choices = served.dispatcher, body.choices
    futures = [dispatcher.generate(request) for request in requests] if body.new_tokens() else []
    if body.logprobs is not None and body.echo:
        scoring = [dispatcher.score(request.prompt, body.logprobs) for request in requests[::choices]]
        found = await answered(connection, [*scoring, *futures])
        scores, generations = found[: len(scoring)], found[len(scoring) :]
    else:
        generations = await answered(connection, futures)
    answers: Sequence[Generation | None] = generations or [None] * len(requests)
    made = [
        _choice(served, body, i, given[i // choices], request, answer, scores[i // choices])
        for i, (request, answer) in enumerate(zip(requests, answers, strict=True))
    ]
    counts = sum(len(request.prompt) for request in requests[::choices]), sum(len(answer.tokens) for answer in answers if answer)
    return heading("text_completion", "text_completion", served.name, served.model) | {"choices": made, "usage": usage(*counts)}


def _choice(
    served: Served,
    body: CompletionBody,
    index: int,
    given: str | list[int],
    request: GenerateRequest,
    answer: Generation | None,
    scores: PromptScores | None,
) -> dict[str, Any]:
    model, prompt = served.model, [*request.prompt]
    text, tokens = (answer.text, answer.tokens) if answer else ("", [])
    if body.echo:
        before = given if isinstance(given, str) else model.detokenize(given)
        # SentencePiece's decoder drops a blank at the front, which is no longer the front
        blank = " " if tokens and model.texts.token_bytes(tokens[0])[:1] == b" " and not model.decode(tokens).startswith(" ") else ""
        text = before + blank + text
    logprobs = None
    if body.logprobs is not None:
        layout = CompletionLogprobs(model, body.logprobs, bool(body.return_tokens_as_token_ids))
        new = answer.scores if answer else []
        logprobs = layout.add([*prompt, *tokens], [*scores, *new], text) if scores else layout.add(tokens, new, text)
    return {"index": index, "text": text, "logprobs": logprobs} | finish(answer)
