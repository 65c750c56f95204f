"""What the generator can be asked, and what it answers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moe_lm.errors import ModelError

SEEDS = range(-(1 << 63), 1 << 64)  # what torch's random generators take


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A prompt (token ids, not empty), stop strings, and how to choose tokens (temperature 0: greedy).

    Sampled tokens come from the `top_k` likeliest (0: all), of which so many as have `top_p` of the probability, each at least `min_p`
    times as likely as the likeliest. `num_top`: also give the log-probability of each token, before temperature and choice, with so many
    of the likeliest tokens beside it. `on_progress` is called with the answer so far after each token that does not end it.
    """

    prompt: Sequence[int]
    until: Sequence[str] = ()
    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    ignore_eos: bool = False  # generate max_new_tokens even past the end of text, for measuring speed
    on_progress: "Callable[[Generation], None] | None" = None
    priority: int = 0  # higher ones start first
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    num_top: int | None = None

    def check(self) -> None:
        """Raises ModelError for what no model can answer."""
        if not self.prompt or self.max_new_tokens < 1:
            raise ModelError("a generation request needs a prompt of at least one token and max_new_tokens >= 1")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ModelError(f"the temperature is {self.temperature}; give a finite number, 0 (greedy) or more")
        if self.seed not in SEEDS:
            raise ModelError(f"the seed is {self.seed}; give an integer from -2^63 to 2^64 - 1")
        if self.top_k < 0:
            raise ModelError(f"top_k is {self.top_k}; give 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise ModelError(f"top_p is {self.top_p}; give a number above 0, at most 1 (all tokens)")
        if not 0 <= self.min_p <= 1:
            raise ModelError(f"min_p is {self.min_p}; give a number from 0 (all tokens) to 1")
        for stop in self.until:
            if not stop:
                raise ModelError("a stop string is empty; leave it out")
            if any("\ud800" <= letter <= "\udfff" for letter in stop):
                raise ModelError(f"the stop string {stop!a} holds a lone surrogate, which no text has; leave it out")


@dataclass(frozen=True, slots=True)
class Generation:
    """The text before the first stop string, the generated ids, why it ended ("stop", "eos" or "length"), and the stop string found.

    `scores` has an entry a token where the request asks for them; `finish_reason` is "" as long as the answer goes on.
    """

    text: str
    tokens: list[int]
    finish_reason: str
    stop: str | None = None
    scores: "Sequence[TokenScore]" = ()


@dataclass(frozen=True, slots=True)
class PromptScoresRequest:
    """A prompt (token ids, not empty) whose every token is scored, with the `num_top` likeliest tokens at each position."""

    prompt: Sequence[int]
    num_top: int = 1
    priority: int = 0

    def check(self) -> None:
        """Raises ModelError for what no model can answer."""
        if not self.prompt:
            raise ModelError("the prompt is empty: it needs at least one token")


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token's log-probability (natural log) given all before it, and the likeliest tokens there: (id, logprob), best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


PromptScores = list[TokenScore | None]  # one per token; None for the first, which has no context
