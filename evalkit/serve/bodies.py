"""The bodies of requests, and the settings of OpenAI's API that this server refuses.

A setting that would change the answer and is not supported is answered with 400; one that has no effect here is accepted.
"""

import secrets
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from evalkit.errors import EvalkitError

# OpenAI's settings that are not supported, with the values that mean what happens anyway
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "top_p": (None, 1),
    "top_k": (None, 0, -1),
    "min_p": (None, 0),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "logit_bias": (None, {}),
    "suffix": (None, ""),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "logprobs": (None, False),  # of chats; completions have another field for it
    "top_logprobs": (None, 0),
    "use_beam_search": (None, False),
}
IGNORED = frozenset({"user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier"})


class HttpError(EvalkitError):
    """A refused request: its HTTP status, and OpenAI's code for it if there is one."""

    def __init__(self, message: str, code: str | None = None, param: str | None = None, status: int = 400):
        super().__init__(message)
        self.code, self.param, self.status = code, param, status


class StreamOptions(BaseModel):
    include_usage: bool = False


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str
    temperature: float | None = Field(None, ge=0, le=100)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False  # vLLM's: go on to max_tokens, for measuring speed

    def check(self) -> None:
        """Raises HttpError for unsupported settings and unknown names."""
        for name, value in (self.model_extra or {}).items():
            if name in IGNORED or (name in NEUTRAL and value in NEUTRAL[name]):
                continue
            if name in NEUTRAL:
                raise HttpError(f"{name} = {str(value)[:80]} is not supported by this server; leave it out", "unsupported_value", name)
            raise HttpError(f"unknown parameter {name[:80]!r}", "unknown_parameter", name)
        if "" in self.stops:
            raise HttpError("a stop string is empty", param="stop")

    @property
    def stops(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def sampling_temperature(self) -> float:
        """The temperature, 1 if none is given, as in OpenAI's API."""
        return 1.0 if self.temperature is None else self.temperature

    def sampling_seed(self) -> int:
        """The seed, or a random one: sampling without a seed differs each time."""
        return secrets.randbits(31) if self.seed is None else self.seed % (1 << 63)

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionBody(_Body):
    """/v1/completions. `prompt`: a text, token ids, or a list of either; `logprobs`: how many of the likeliest tokens to list for each."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(None, ge=0)
    echo: bool | None = False
    logprobs: int | None = Field(None, ge=0, le=20)

    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts, at least one. Raises HttpError."""
        if not self.prompt:
            raise HttpError("the prompt is empty", param="prompt")
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt

    def new_tokens(self) -> int:
        """max_tokens, 16 if none is given, as in OpenAI's API. Raises HttpError for 0 without echo."""
        if self.max_tokens == 0 and not self.echo:
            raise HttpError("max_tokens is 0, which is only useful with echo; give at least 1", param="max_tokens")
        return 16 if self.max_tokens is None else self.max_tokens


class TextPart(BaseModel):
    type: str
    text: str = ""


class Message(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: str
    content: str | list[TextPart] | None = None

    def as_dict(self) -> dict[str, str]:
        """{"role", "content"} with the text parts joined. Raises HttpError for images and the like."""
        if isinstance(self.content, list):
            if other := [part.type for part in self.content if part.type != "text"]:
                raise HttpError(f"a message holds a part of type {other[0]!r}; this server reads text", param="messages")
            return {"role": self.role, "content": "".join(part.text for part in self.content)}
        return {"role": self.role, "content": self.content or ""}


class ChatBody(_Body):
    """/v1/chat/completions. Without a limit an answer may fill the model's context."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TokenizeBody(BaseModel):
    """/tokenize, as in vLLM."""

    model_config = ConfigDict(extra="ignore")

    prompt: str
    model: str | None = None
