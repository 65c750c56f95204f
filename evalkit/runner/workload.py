"""How much a task asks of a model: requests, prompt tokens with and without those that shared prefixes spare, new tokens at most.

Nothing is encoded but a sample of the texts: requests and characters are counted exactly, and the sample tells how many tokens they are.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from evalkit.tasks import Generate, Loglikelihood, Request

SAMPLE = 48  # texts whose tokens are counted
# characters: moe_lm computes a shorter shared beginning again, of prompts that are scored (8 tokens) and of prompts that it answers (32)
SHORTEST_SHARED, SHORTEST_AWAITED = 32, 128
A_TOKEN = 5  # characters: a continuation of no more has one token, about, which is scored and not computed
QUARTER, TYPICAL = 0.25, 256  # the mean length of answers that nobody has seen yet: a quarter of their limit, but not more tokens than this
ENOUGH = 8  # answers, to take their lengths and pace for those of the others
TEMPLATE, TURN = 25, 5  # tokens that a chat template adds to a conversation and to each of its turns, about

Count = Callable[[Sequence[str]], int]  # how many tokens the texts have, all in all


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of `requests` distinct requests, none of them answered yet.

    `prompt_tokens` are computed: contexts, and continuations without their last token. `shared_tokens` are spared by shared prefixes.
    `scored_tokens` are those of continuations, whose logits are needed. `answers` are generated, with `max_new_tokens` in all at most.
    """

    requests: int
    prompt_tokens: int
    shared_tokens: int
    scored_tokens: int
    answers: int
    max_new_tokens: int


def likely_length(limit: float) -> float:
    """The mean length of answers that are still unknown, in tokens. HumanEval's took 100 to 250 of limits of 512 to 2,048."""
    return min(QUARTER * limit, TYPICAL)


def likely_new_tokens(answers: int, most: float) -> float:
    """Of so many answers, with `most` tokens in all at most."""
    return answers * likely_length(most / max(1, answers))


@dataclass(frozen=True, slots=True)
class Size:
    """A request in characters: its prompt, how much of that shared prefixes spare, what is scored after it, and new tokens at most."""

    prompt: int
    shared: int
    scored: int
    max_new_tokens: int


def workload(requests: Iterable[Request], count: Count) -> Workload:
    """What the requests ask; of a conversation that goes on, pass every turn. `count` is called with a few texts."""
    distinct = list(dict.fromkeys(requests))
    found = sizes(distinct)
    prompts = [prompt_text(request) for request in distinct]
    own = _tokens([text[s.shared :] * _times(r, s) for r, text, s in zip(distinct, prompts, found, strict=True)], count)
    shared = _tokens([text[: size.shared] for text, size in zip(prompts, found, strict=True)], count)
    options = [option for request in distinct if isinstance(request, Loglikelihood) for option in request.continuations]
    scored = max(_tokens(options, count), len(options))
    template = sum(TEMPLATE + TURN * len(request.messages) for request in distinct if request.messages)
    answers = [request for request in distinct if isinstance(request, Generate)]
    return Workload(
        requests=len(distinct),
        prompt_tokens=own + template + scored - len(options),
        shared_tokens=shared,
        scored_tokens=scored,
        answers=len(answers),
        max_new_tokens=sum(request.max_new_tokens for request in answers),
    )


def sizes(requests: Sequence[Request]) -> list[Size]:
    """The size of each of some distinct requests; a beginning that several share belongs to the first of them in lexical order."""
    prompts = [prompt_text(request) for request in requests]
    shared, before = [0] * len(prompts), ""
    for i in sorted(range(len(prompts)), key=prompts.__getitem__):
        common = num_shared(before, prompts[i])
        shared[i], before = common if common >= _shortest(requests[i]) else 0, prompts[i]
    return [_size(request, len(text), spared) for request, text, spared in zip(requests, prompts, shared, strict=True)]


def beginnings(requests: Iterable[Request]) -> int:
    """How many of the requests take as much work as all the beginnings that they share (shots, headers), by their characters."""
    measured = sizes(sorted(dict.fromkeys(requests), key=prompt_text))
    shared = sum(size.shared for before, size in pairwise(measured) if size.shared and not before.shared)
    # a new token is about four characters, and about a quarter of them come to be
    work = sum(size.prompt - size.shared + size.scored + size.max_new_tokens for size in measured)
    return math.ceil(shared * len(measured) / max(1, work - shared))


def _shortest(request: Request) -> int:
    return SHORTEST_AWAITED if isinstance(request, Generate) else SHORTEST_SHARED


def _times(request: Request, size: Size) -> int:
    """How often the prompt's own end is computed: if it is short, with each continuation of more than a token."""
    if isinstance(request, Generate) or size.prompt - size.shared >= SHORTEST_SHARED:
        return 1
    return max(1, sum(len(option) > A_TOKEN for option in request.continuations))


def _size(request: Request, prompt: int, shared: int) -> Size:
    if isinstance(request, Generate):
        return Size(prompt, shared, 0, request.max_new_tokens)
    return Size(prompt, shared, sum(map(len, request.continuations)), 0)


def prompt_text(request: Request) -> str:
    """The prompt, without what a chat template adds to it."""
    return "\n".join([*(content for _, content in request.messages), request.context])


def num_shared(a: Sequence[object], b: Sequence[object]) -> int:
    """How many characters, or tokens, both begin with. By bisection: comparing slices is quick, a loop over characters is not."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def _tokens(texts: Sequence[str], count: Count) -> int:
    """Of all the texts, at the tokens a character of some of them, evenly spread."""
    some = [text for text in texts if text]
    sample = [some[k * len(some) // SAMPLE] for k in range(SAMPLE)] if len(some) > SAMPLE else some
    return round(sum(map(len, some)) * count(sample) / sum(map(len, sample))) if sample else 0
