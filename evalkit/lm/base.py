"""The interface of a back-end: three streaming calls and a fingerprint."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.record.schema import Tokens
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods, Request, Response, last_asked

__all__ = ["LM", "OnLoad", "Tokens", "require_finite", "responses_to"]

OnLoad = Callable[[int, int], None]  # (parameters read, parameters in all)


class LM(ABC):
    """Answers are yielded as (index of the request, response) as soon as each is known, in any order."""

    fingerprint: str  # "sha256:..", over weights, tokenizer, chat template and numerics
    notices: Sequence[str] = ()  # what a user should know about this engine, a line each

    @property
    def ready(self) -> bool:
        """False if `prepare` still has to read the weights."""
        return True

    def prepare(self, on_load: OnLoad | None = None) -> None:
        """Read the weights, which a run needs only if the journal lacks an answer. Raises EvalkitError."""
        return

    def keep_prefixes(self) -> None:
        """Be told, before the first request, that they come some at a time: an engine that is able to then keeps what they
        begin with, between calls."""
        return

    def share_memory(self, engines: int, weights: int | None = None) -> None:
        """Be told, before the weights are read, how many engines like this one share the device's memory, itself included.

        `weights`: the descriptor of an open file in memory, for what all of them can hold once.
        """
        return

    @abstractmethod
    def loglikelihood(self, requests: Sequence[Loglikelihood]) -> Iterator[tuple[int, Loglikelihoods]]: ...

    @abstractmethod
    def loglikelihood_rolling(self, texts: Sequence[str]) -> Iterator[tuple[int, float]]:
        """The log-likelihood of whole texts, each token after all before it (as far back as max_seq_len reaches)."""

    @abstractmethod
    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]: ...

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """run.json's `model` entry: family, parameters, dtype, device, engine, max_seq_len, as far as they are known."""

    def tokens(self) -> Tokens:
        """Totals so far; zero if the back-end does not count. May be called by another thread."""
        return Tokens()

    def unfinished(self) -> Sequence[int]:
        """New tokens so far of each answer in the making; empty if the back-end does not tell. May be called by another thread."""
        return ()

    def activity(self) -> str:
        """What it is about, to be shown beside the progress; "" if there is nothing to say. May be called by another thread."""
        return ""

    def close(self) -> None:
        """Give back what it holds outside this process; it is asked nothing more."""
        return


def responses_to(lm: LM, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
    """The responses to requests of any kind, by index: options that are scored, then whole texts, then generated answers."""
    scored = [i for i, each in enumerate(requests) if isinstance(each, Loglikelihood) and not each.rolling]
    whole = [i for i, each in enumerate(requests) if isinstance(each, Loglikelihood) and each.rolling]
    generated = [i for i, each in enumerate(requests) if isinstance(each, Generate)]
    if scored:
        yield from ((scored[i], found) for i, found in lm.loglikelihood([requests[i] for i in scored]))  # type: ignore[misc]
    if whole:
        texts = [requests[i].continuations[0] for i in whole]  # type: ignore[union-attr]
        yield from ((whole[i], Loglikelihoods((logprob,), (False,))) for i, logprob in lm.loglikelihood_rolling(texts))
    if generated:
        yield from ((generated[i], found) for i, found in lm.generate([requests[i] for i in generated]))  # type: ignore[misc]


def require_finite(request: Request, response: Response) -> None:
    """Raises EvalkitError for a log-probability that is NaN or infinite: compared with others, NaN would choose the first answer."""
    if isinstance(response, Loglikelihoods) and not all(map(math.isfinite, response.logprobs)):
        raise EvalkitError(
            f"the model answered {', '.join(map(str, response.logprobs))} to a request that begins {last_asked(request)[:60]!r}: "
            "only finite log-probabilities are scored; use --dtype float32, or check the checkpoint"
        )
