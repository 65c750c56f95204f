"""How long a run still takes, at its own pace. Work is weighed in tokens, and nothing is said before the pace can be known.

A time is told once it is at most KNOWN times as long as the work that it is measured on. Of tasks to come, only those are told whose kind,
scoring or generating, this run has done: the pace of one says little of the other.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evalkit.lm.base import LM
from evalkit.progress import duration
from evalkit.runner.workload import ENOUGH, Size, likely_new_tokens, sizes
from evalkit.tasks import Generated, Request, Response

CHARACTERS = 4  # of a token, about
NEW = 2  # what a new token costs, in tokens of prompts, about: it is run in a smaller pass
SETTLED = 2.0  # seconds of work after which a pace is one
KNOWN = 50  # times the measured seconds: the longest time that is told
BURST = 1.0  # seconds in which the answers of the first pass come, at most


@dataclass(frozen=True, slots=True)
class _Left:
    """Seconds, at most or about, from what took `measured` seconds; `pace` is in seconds a token of work."""

    seconds: float
    pace: float
    measured: float
    is_bound: bool = False


@dataclass(slots=True)
class _Work:
    """What was asked of a task, and what came back. `done` is the work of the requests that are answered."""

    sizes: Mapping[Request, Size]
    prompts: float  # tokens, about
    each: float  # of them a prompt's own; the first one has what others share with it
    max_new_tokens: int  # of all answers
    computed_before: int = 0  # by the engine, for earlier tasks
    started: float = field(default_factory=lambda: time.monotonic())
    answers: int = 0
    new_tokens: int = 0
    done: float = 0.0
    first: float = 0.0  # time of the first answer
    pass_done: float = 0.0  # `done` after the first pass
    pass_ended: float = 0.0
    last: float = 0.0  # time of the last answer

    @classmethod
    def of(cls, requests: Sequence[Request], computed_before: int = 0) -> "_Work":
        found = sizes(requests)
        new, prompts = sum(size.max_new_tokens for size in found), [_prompt(size) for size in found]
        each = (sum(prompts) - max(prompts, default=0)) / max(1, len(prompts) - 1)
        return cls(dict(zip(requests, found, strict=True)), sum(prompts), each, new, computed_before)

    def add(self, request: Request, response: Response) -> None:
        self.answers += 1
        self.done += _prompt(self.sizes[request])
        if isinstance(response, Generated):
            self.new_tokens += response.num_tokens
            self.done += NEW * response.num_tokens
        now = time.monotonic()
        self.first = self.first or now
        if self.last == self.pass_ended and now - self.first <= BURST:
            self.pass_ended, self.pass_done = now, self.done
        self.last = now


def _prompt(size: Size) -> float:
    return (size.prompt - size.shared + size.scored) / CHARACTERS


class TimeLeft:
    """`later`: by name, the distinct requests of tasks to come that have no answer yet."""

    def __init__(self, lm: LM, later: Mapping[str, Sequence[Request]]):
        self._lm = lm
        self._later = {name: _Work.of(requests) for name, requests in later.items()}
        self._work = _Work.of(())
        self._paces: dict[bool, float] = {}  # the last ones known, of generating and of scoring
        self._share: float | None = None  # of its limit: an answer's mean length, once it is known
        self._seen = (0, 0.0)  # the work of answers in the making when it last changed, and when that was

    def begin(self, name: str, requests: Sequence[Request]) -> None:
        """These requests of a task are asked now."""
        self._later.pop(name, None)
        self._work, self._seen = _Work.of(requests, self._lm.tokens().computed), (0, 0.0)

    def add(self, request: Request, response: Response) -> None:
        """One of them is answered."""
        self._work.add(request, response)

    def __str__(self) -> str:
        """How long, and what the engine is about."""
        return ", ".join(filter(None, (self._text(), self._lm.activity())))

    def _text(self) -> str:
        """ "12 min left", "at most 12 min left", and with the tasks to come; before that is known, how far the engine is."""
        generates = self._work.max_new_tokens > 0
        left = self._generating() if generates else self._scoring()
        if left is None or left.seconds > KNOWN * left.measured:
            return self._phase()
        self._paces[generates] = left.pace
        text = f"{'at most ' if left.is_bound else ''}{duration(left.seconds)} left"
        if not self._later:
            return text
        later = self._seconds_to_come()
        if later is None or left.seconds + later > KNOWN * left.measured:
            return f"{text}, then {len(self._later)} more task{'s' if len(self._later) > 1 else ''}"
        return f"{text}, {duration(left.seconds + later)} with the tasks to come"

    def _seconds_to_come(self) -> float | None:
        """Of the tasks to come; None where the pace of one's kind is not known yet."""
        seconds = 0.0
        for work in self._later.values():
            pace = self._paces.get(work.max_new_tokens > 0)
            if work.sizes and pace is None:
                return None
            seconds += (pace or 0.0) * (work.prompts + NEW * self._new_tokens(work))
        return seconds

    def _new_tokens(self, work: _Work) -> float:
        """Of a task to come, about."""
        if self._share is not None:
            return self._share * work.max_new_tokens
        return likely_new_tokens(len(work.sizes), work.max_new_tokens)

    def _phase(self) -> str:
        computed = self._lm.tokens().computed - self._work.computed_before
        if computed:
            return f"{computed:,} tokens computed"
        return "" if self._work.answers else "no answer yet: still encoding the prompts, or in the first pass"

    def _scoring(self) -> _Left | None:
        """At the pace since the end of the first pass, which all prompts had to be encoded for."""
        work = self._work
        if work.last - work.pass_ended < SETTLED:
            return None
        measured = work.last - work.pass_ended
        pace = measured / (work.done - work.pass_done)
        return _Left(max(0.0, pace * (work.prompts - work.done) - (time.monotonic() - work.last)), pace, measured)

    def _generating(self) -> _Left | None:
        """Answers that are not finished count by their tokens: the first ones to end are the shortest, and say little of the others."""
        work, now, unfinished = self._work, time.monotonic(), self._lm.unfinished()
        new, n = work.new_tokens + sum(unfinished), len(work.sizes)
        computed = self._lm.tokens().computed - work.computed_before
        if self._seen[0] != computed + new:
            self._seen = (computed + new, now)
        elapsed = self._seen[1] - work.started  # a pass that takes long is no slower pace until it ends
        if not new or elapsed < SETTLED or (work.answers < min(ENOUGH, n) and not unfinished):
            return None
        limit, seen = work.max_new_tokens / n, work.answers >= max(min(ENOUGH, n), len(unfinished))
        mean = min(limit, new / work.answers) if seen else limit  # as of waiting times, of which some are not over
        if seen:
            self._share = mean / limit
        waiting = n - work.answers - len(unfinished)
        to_come = waiting * mean + sum(max(1.0, min(mean, limit - length)) for length in unfinished)
        prompts_left = waiting * work.each
        prompts_done = work.prompts - prompts_left
        if computed > new:  # prompts of figures or code have more tokens than CHARACTERS says
            prompts_left *= (computed - new) / prompts_done
            prompts_done = computed - new
        pace = elapsed / (prompts_done + NEW * new)
        left = pace * (prompts_left + NEW * to_come)
        return _Left(max(0.0, left - (now - self._seen[1])), pace, elapsed, not seen)
