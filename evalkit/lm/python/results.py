"""What a method of one's own gave for one request, as a response. Raises EvalkitError for anything that is not what was asked for."""

import math
from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat

from evalkit.codec import is_text
from evalkit.errors import EvalkitError
from evalkit.tasks import REFUSED, Generate, Generated, Loglikelihood, Loglikelihoods

ABOVE_ZERO = 0.01  # rounding of a probability of 1 in half precision
REASONS = ("stop", "eos", "length", REFUSED)
PAIRS = "a list with (log-probability, is_greedy) for each continuation, or evalkit.tasks.Loglikelihoods"
Wrong = Callable[[str], EvalkitError]  # why -> the error to raise
TEXT = "the text of the answer, or evalkit.tasks.Generated"


def loglikelihoods(method: str, request: Loglikelihood, result: Any) -> Loglikelihoods:
    """A pair for each continuation."""

    def wrong(why: str) -> EvalkitError:
        return _wrong(method, request.context, result, f"{why}; give {PAIRS}")

    if isinstance(result, Loglikelihoods):
        if len(result.logprobs) != len(result.is_greedy):
            raise wrong(f"it has {len(result.logprobs)} log-probabilities and {len(result.is_greedy)} is_greedy")
        pairs: Sequence[Any] = list(zip(result.logprobs, result.is_greedy, strict=True))
        counts = [_count(getattr(result, name), name, wrong) for name in ("truncated", "merged", "cut_by_protocol")]
    elif isinstance(result, list | tuple):
        pairs, counts = result, []
    else:
        raise wrong(f"it is a {type(result).__name__}")
    if len(pairs) != len(request.continuations):
        raise wrong(f"it has {len(pairs)} entries, and the request {len(request.continuations)} continuations")
    logprobs, greedy = [], []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise wrong(f"{pair!r:.40} is no pair")
        logprobs.append(_logprob(pair[0], wrong))
        greedy.append(_truth(pair[1], wrong))
    return Loglikelihoods(tuple(logprobs), tuple(greedy), *counts)


def rolling(method: str, text: str, result: Any) -> float:
    """The log-probability of a whole text."""
    return _logprob(result, lambda why: _wrong(method, text, result, f"{why}; give one log-probability for each text"))


def generated(method: str, request: Generate, result: Any) -> Generated:
    """An answer, cut where a stop string begins."""

    def wrong(why: str) -> EvalkitError:
        return _wrong(method, request.context, result, f"{why}; give {TEXT}")

    answer = Generated(result, "stop", 0) if isinstance(result, str) else result
    if not isinstance(answer, Generated):
        raise wrong(f"it is a {type(result).__name__}")
    if not is_text(answer.text):
        raise wrong("its text is no str that UTF-8 can hold")
    if answer.finish_reason not in REASONS:
        raise wrong(f"finish_reason is {answer.finish_reason!r:.40}, expected one of {', '.join(REASONS)}")
    num_tokens, truncated = (_count(n, name, wrong) for n, name in ((answer.num_tokens, "num_tokens"), (answer.truncated, "truncated")))
    starts = [at for stop in request.until if (at := answer.text.find(stop)) >= 0]
    return Generated(str(answer.text)[: min(starts, default=None)], answer.finish_reason, num_tokens, truncated)


def _wrong(method: str, asked: str, result: Any, why: str) -> EvalkitError:
    return EvalkitError(f"{method} gave {shown(result)} for a request that begins {asked[:40]!r}: {why}")


def shown(value: Any) -> str:
    """A value as Python writes it, in one line, cut where it is long."""
    try:
        return " ".join(repr(value).split())[:60]
    except Exception:
        return f"a {type(value).__name__}"


def _logprob(value: Any, wrong: Wrong) -> float:
    """A number of any library's: a float, or a scalar of numpy or torch."""
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise wrong(f"{shown(value)} is no number")
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # an array of several
        raise wrong(f"{shown(value)} is no single number") from None
    if not math.isfinite(number):
        raise wrong(f"{number} is not finite")
    if number > ABOVE_ZERO:
        raise wrong(f"{number:g} is above 0, so it is no log-probability (a loss is its negative)")
    return number


def _truth(value: Any, wrong: Wrong) -> bool:
    try:
        if value in (True, False):
            return bool(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise wrong(f"is_greedy is {shown(value)}, expected True or False")


def _count(value: Any, name: str, wrong: Wrong) -> int:
    if type(value) is not int or value < 0:
        raise wrong(f"{name} is {shown(value)}, expected a whole number, 0 or more")
    return value
