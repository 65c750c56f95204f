"""The bodies of requests, and the settings of OpenAI's and vLLM's APIs that this server refuses.

A setting that would change the answer and is not supported is refused by name; one without effect here, and any that is null, is accepted.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from evalkit.lm.native_tokens import GenerateRequest
from evalkit.serve.errors import HttpError
from evalkit.serve.messages import check_values

MOST_CHOICES = 64  # n, for each prompt
MOST_ANSWERS = 4096  # prompts times n

# settings that are not supported, with the values that mean what happens anyway
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (True,),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "continue_final_message": (False,),
    "early_stopping": (False,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop_token_ids": ([],),
    "suffix": ("",),
    "use_beam_search": (False,),
}
# settings that no answer depends on
HARMLESS = frozenset(
    "cache_salt include_reasoning metadata parallel_tool_calls prediction priority prompt_cache_key prompt_cache_retention request_id"
    " safety_identifier service_tier store user".split()
)


def check_extra(settings: Mapping[str, Any] | None) -> None:
    """Raises HttpError for a setting beside those of a body that is unknown, or would change the answer."""
    for name, value in (settings or {}).items():
        if value is None or name in HARMLESS or value in NEUTRAL.get(name, ()):
            continue
        if name in NEUTRAL:
            raise HttpError(f"{name} = {str(value)[:80]} is not supported by this server; leave it out", "unsupported_value", name)
        raise HttpError(f"unknown parameter {name[:80]!r}; leave it out", "unknown_parameter", name[:80])


# a text or true is no number, though Python makes one of either
Int = Annotated[int, Strict()]
Float = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]


class StreamOptions(BaseModel):
    """`include_usage`: the token counts at the end. `include_obfuscation`, OpenAI's padding of the pieces, changes no answer."""

    model_config = ConfigDict(extra="forbid")

    include_usage: Bool | None = False
    include_obfuscation: Bool | None = None
    continuous_usage_stats: Literal[False] | None = None  # vLLM's: the counts in every piece


class Checked(BaseModel):
    """A body whose texts are valid Unicode and whose levels are few; what it has beside the fields is for `check_extra`."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_values(cls, values: Any) -> Any:
        check_values(values)
        return values


class Templated(Checked):
    """What goes to the chat template beside the messages."""

    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: Bool | None = True

    @property
    def template_settings(self) -> dict[str, Any]:
        return {
            "tools": self.tools or None,
            "arguments": self.chat_template_kwargs or {},
            "add_generation_prompt": self.add_generation_prompt is not False,
        }


class Body(Checked):
    """What both kinds of requests have."""

    model: str
    temperature: Float | None = Field(None, ge=0, le=100)
    top_p: Float | None = Field(None, gt=0, le=1)
    top_k: Int | None = Field(None, ge=-1)
    min_p: Float | None = Field(None, ge=0, le=1)
    n: Int | None = Field(None, ge=1, le=MOST_CHOICES)
    best_of: Int | None = None
    seed: Int | None = None
    stop: str | list[str] | None = None
    stream: Bool | None = False
    stream_options: StreamOptions | None = None
    ignore_eos: Bool | None = False  # vLLM's: go on to max_tokens, for measuring speed

    def check(self) -> None:
        """Raises HttpError for unsupported settings and unknown names."""
        check_extra(self.model_extra)
        if "" in self.stops:
            raise HttpError("a stop string is empty; leave it out", param="stop")
        if self.best_of is not None and self.best_of != self.choices:
            raise HttpError(f"best_of is {self.best_of} and n {self.choices}: this server returns all that it makes", param="best_of")

    @property
    def stops(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def choices(self) -> int:
        return self.n or 1

    def requests(self, prompt: Sequence[int], limit: int, num_top: int | None, until: Sequence[str] = ()) -> list[GenerateRequest]:
        """One for each of n choices, each with a seed of its own: `seed`, `seed` + 1 and so on; random ones without a seed.

        The temperature is 1 if none is given, as in OpenAI's API.
        """
        temperature = 1.0 if self.temperature is None else self.temperature
        seed = 0 if not temperature else secrets.randbits(31) if self.seed is None else self.seed
        return [
            GenerateRequest(
                prompt,
                (*self.stops, *until),
                limit,
                temperature,
                (seed + choice) % (1 << 63),
                bool(self.ignore_eos),
                top_k=max(0, self.top_k or 0),
                top_p=1.0 if self.top_p is None else self.top_p,
                min_p=self.min_p or 0.0,
                num_top=num_top,
            )
            for choice in range(self.choices)
        ]

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionBody(Body):
    """/v1/completions. `prompt`: a text, token ids, or a list of either; `logprobs`: how many of the likeliest tokens to list for each."""

    prompt: str | list[str] | list[Int] | list[list[Int]]
    max_tokens: Int | None = Field(None, ge=0)
    echo: Bool | None = False
    logprobs: Int | None = Field(None, ge=0, le=20)
    return_tokens_as_token_ids: Bool | None = False

    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts, at least one. Raises HttpError."""
        if not self.prompt:
            raise HttpError("the prompt is empty", param="prompt")
        several = not isinstance(self.prompt, str) and not isinstance(self.prompt[0], int)
        prompts: Any = self.prompt if several else [self.prompt]
        if len(prompts) * self.choices > MOST_ANSWERS:
            raise HttpError(f"{len(prompts)} prompts times n {self.choices}: at most {MOST_ANSWERS} answers a request", param="prompt")
        return prompts

    def new_tokens(self) -> int:
        """max_tokens, 16 if none is given, as in OpenAI's API. Raises HttpError for 0 without echo."""
        if self.max_tokens == 0 and not self.echo:
            raise HttpError("max_tokens is 0, which is only useful with echo; give at least 1", param="max_tokens")
        return 16 if self.max_tokens is None else self.max_tokens

    def check(self) -> None:
        super().check()
        if self.stream and self.echo:
            raise HttpError("a stream takes no echo; leave one of them out", param="stream")


class ChatBody(Body, Templated):
    """/v1/chat/completions. Without a limit an answer may fill the model's context."""

    messages: list[Any] = Field(min_length=1)
    max_tokens: Int | None = Field(None, ge=1)
    max_completion_tokens: Int | None = Field(None, ge=1)
    logprobs: Bool | None = False
    top_logprobs: Int | None = Field(None, ge=0, le=20)
    tool_choice: Any = None
    documents: list[dict[str, Any]] | None = None

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise HttpError("top_logprobs needs logprobs = true", param="top_logprobs")
        if self.tool_choice not in (None, "none", "auto"):
            raise HttpError(
                f"tool_choice = {str(self.tool_choice)[:80]} is not supported: no model is made to call a tool here; leave it out",
                "unsupported_value",
                "tool_choice",
            )

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def num_top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def template_settings(self) -> dict[str, Any]:
        return super().template_settings | {"documents": self.documents or None}


class TokenizeBody(Templated):
    """/tokenize, as in vLLM: of a text, or of a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Any] | None = None
    add_special_tokens: Bool | None = None
    return_token_strs: Bool | None = False

    def check(self) -> None:
        """Raises HttpError unless there is one text or chat, and for settings that are not supported."""
        check_extra(self.model_extra)
        if (self.prompt is None) == (self.messages is None):
            raise HttpError("give a prompt or messages, one of them", param="prompt")
        if self.messages is not None and self.add_special_tokens:
            raise HttpError("a chat's special tokens are those that its template writes; leave it out", param="add_special_tokens")


class DetokenizeBody(BaseModel):
    """/detokenize, as in vLLM."""

    model_config = ConfigDict(extra="ignore")

    tokens: list[Int]
