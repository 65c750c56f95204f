"""Requests to a language model, and their responses."""

from dataclasses import dataclass, field
from typing import Literal

from evalkit.codec import OPTIONAL

Messages = tuple[tuple[str, str], ...]  # (role, content) each


@dataclass(frozen=True, slots=True)
class Loglikelihood:
    """How likely is each continuation after the context? A multiple-choice question is one such request.

    Where the context exceeds `truncate_above` tokens, its last `truncate_to` are kept: `cut_by_protocol` of the response.
    `messages`, (role, content) each, are a conversation before the context: the model's own chat template writes it, up to the answer.
    `rolling`: the one continuation, after no context, is scored from its first token on, in windows where it is longer than the model's
    context.
    """

    context: str
    continuations: tuple[str, ...]
    truncate_above: int | None = None
    truncate_to: int | None = None
    messages: Messages = field(default=(), metadata=OPTIONAL)
    rolling: bool = field(default=False, metadata=OPTIONAL)
    kind: Literal["loglikelihood"] = "loglikelihood"


@dataclass(frozen=True, slots=True)
class Generate:
    """Continue the context until a stop string, the end of text, or max_new_tokens; temperature 0 is greedy.

    `messages`, (role, content) each, are a conversation before the context: the model's own chat template writes it, up to the answer,
    which the context, if any, opens. `max_total_tokens` limits the prompt and the answer together: a long prompt has a shorter answer.
    """

    context: str
    until: tuple[str, ...]
    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    messages: Messages = ()
    max_total_tokens: int | None = field(default=None, metadata=OPTIONAL)
    kind: Literal["generate"] = "generate"


@dataclass(frozen=True, slots=True)
class Loglikelihoods:
    """One (logprob, is_greedy) a continuation, natural log, summed over its tokens.

    `truncated`: context tokens that did not fit and were cut off. `merged`: continuations whose first token the tokenizer merged with the
    context's end. `cut_by_protocol`: context tokens left out because the request says so (`truncate_above`), as in the published run.
    """

    logprobs: tuple[float, ...]
    is_greedy: tuple[bool, ...]
    truncated: int = 0
    merged: int = 0
    cut_by_protocol: int = field(default=0, metadata=OPTIONAL)


REFUSED = "refused"  # finish_reason of a prompt that a server's content filter turned away


@dataclass(frozen=True, slots=True)
class Generated:
    """The text before the stop string; `finish_reason` is stop, eos or length, or REFUSED where the server answers other prompts only."""

    text: str
    finish_reason: str
    num_tokens: int
    truncated: int = 0


def is_refused(response: "Response") -> bool:
    """Did the server's content filter turn the prompt away?"""
    return isinstance(response, Generated) and response.finish_reason == REFUSED


Request = Loglikelihood | Generate
Response = Loglikelihoods | Generated


def last_asked(request: Request) -> str:
    """The conversation's last message, or else the context."""
    return request.messages[-1][1] if request.messages else request.context
