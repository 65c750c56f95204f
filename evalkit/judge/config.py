"""JudgeConfig: everything that decides how judgments are made and what they may cost. The command line reads its defaults from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.tasks import READERS

KEY_VARIABLES = ("EVALKIT_JUDGE_KEY", "OPENAI_API_KEY")  # the first that is set is sent; nothing else holds a key
MAX_FAILED = 0.02  # share of the judgments: with more of them missing, the score depends on which ones are


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """One `evalkit judge`. Prices are for a million tokens, in whatever currency `max_cost` is in.

    `against` is another run: pairwise instead of single-answer grading. `snapshot` is the model name that the server must
    report, where that is not `model` or a dated form of it.
    """

    run: Path
    model: str
    url: str = "https://api.openai.com/v1"
    snapshot: str | None = None
    against: Path | None = None
    data: str | None = None
    allow_task_code: bool = False
    rating: str = "published"
    temperature: float = 0.0
    max_tokens: int = 2048
    repeats: int = 1
    retry_failed: bool = False
    concurrency: int = 8
    attempts: int = 8
    backoff: float = 0.5
    timeout: float = 120.0
    max_requests: int | None = None
    max_cost: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    max_failed: float = MAX_FAILED

    def __post_init__(self) -> None:
        if not self.model:
            raise EvalkitError("no judge; name one, as in --judge-model gpt-4-0613")
        if self.rating not in READERS:
            raise EvalkitError(f"rating is {self.rating!r}; known: {', '.join(READERS)}")
        for name in ("max_tokens", "repeats", "concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise EvalkitError(f"{name} is {getattr(self, name)}; give at least 1")
        for name in ("temperature", "backoff", "max_requests", "max_cost", "price_in", "price_out"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise EvalkitError(f"{name} is {value}; give 0 or more")
        if not 0 <= self.max_failed < 1:
            raise EvalkitError(f"max_failed is {self.max_failed}; give a share, 0 or more and less than 1")
        if not 0 < self.timeout < float("inf"):
            raise EvalkitError(f"timeout is {self.timeout} s; give more than 0")
        if self.max_cost is not None and (self.price_in is None or self.price_out is None):
            raise EvalkitError(f"max_cost is {self.max_cost}, but what a token costs is not known; give --price-in and --price-out")

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies a judge: judgments made under other settings are another judge's."""
        return {
            "model": self.model,
            "snapshot": self.snapshot,
            "url": self.url.rstrip("/"),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """The cost of so many tokens; None where the prices are not known."""
        if self.price_in is None or self.price_out is None:
            return None
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6
