"""Log-likelihoods from llama.cpp's logits: what the contexts of neighbouring requests share is computed once.

Requests are sorted by their contexts and cut into groups. A group's trunk, what all its contexts begin with, is run in sequence 0, which
keeps what it shares with the group before. Each context goes on in a copy of the trunk, and each continuation in a copy of its context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from evalkit.lm.llama_cpp.context import PASS, Context, Model, Part, Settings
from moe_lm.engine.prefix_tree import num_shared
from moe_lm.engine.scorer import Score, ScoreRequest
from moe_lm.engine.usage import Usage
from moe_lm.errors import ModelError, NotFinite

BUDGET = PASS  # tokens of a group behind its trunk: one pass, since attention is computed over all that are in memory
BRANCHES = 32  # contexts of a group, and continuations at a time


@dataclass(slots=True)
class _Row:
    """A request's token log-probabilities as they arrive, by continuation."""

    sums: list[float]
    greedy: list[bool]

    def add(self, continuation: int, token: int, logits_V: np.ndarray, logsumexp: float, likeliest: int) -> None:
        self.sums[continuation] += float(logits_V[token]) - logsumexp
        self.greedy[continuation] &= token == likeliest


@dataclass(slots=True)
class Group:
    """Neighbouring contexts, with the requests that have each, and the tokens that all of them begin with."""

    trunk: int = 0
    contexts: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    @property
    def behind_trunk(self) -> int:
        """Tokens to keep in memory behind the trunk."""
        return sum(map(len, self.contexts)) - self.trunk * len(self.contexts)


def groups(requests: Sequence[ScoreRequest], budget: int = BUDGET) -> Iterator[Group]:
    """All requests, in groups whose contexts have at most `budget` tokens behind their trunk; a single context may have more."""
    group = Group()
    for i in sorted(range(len(requests)), key=lambda i: tuple(requests[i].context)):
        context = tuple(requests[i].context)
        if group.contexts and context not in group.contexts:
            # the last token is no part of the trunk: a context's own sequence has to end with the token whose logits it needs
            trunk = min(group.trunk, num_shared(next(iter(group.contexts)), context), len(context) - 1)
            wider = Group(trunk, {**group.contexts, context: []})
            if len(wider.contexts) > BRANCHES or wider.behind_trunk > budget:
                yield group
                group = Group()
            else:
                group = wider
        if not group.contexts:
            group = Group(len(context) - 1, {context: []})
        group.contexts[context].append(i)
    if group.contexts:
        yield group


def waves(requests: Sequence[ScoreRequest], group: Group) -> Iterator[list[tuple[int, int, int]]]:
    """The continuations of more than one token, as (index of the context, request, continuation), so many as are run at a time."""
    wave: list[tuple[int, int, int]] = []
    size = 0
    for at, members in enumerate(group.contexts.values()):
        for i in members:
            for c, continuation in enumerate(requests[i].continuations):
                if (length := len(continuation) - 1) and wave and (len(wave) == BRANCHES or size + length > BUDGET):
                    yield wave
                    wave, size = [], 0
                if length:
                    wave.append((at, i, c))
                    size += length
    if wave:
        yield wave


class Scorer:
    """Scores requests on a model that is loaded. What it answers may depend, in the last digits, on what is asked beside it."""

    def __init__(self, model: Model, settings: Settings, limit: int, budget: int = BUDGET):
        """`limit`: the most tokens that the model runs in a sequence; `budget`: see `groups`."""
        self.model, self.settings, self.limit, self.budget = model, settings, limit, budget
        self.usage = Usage()
        self._first = 1

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, list[Score]]]:
        """Yield (index of the request, one Score per continuation). Raises ModelError for requests that do not fit the model."""
        for request in requests:
            self._check(request)
            self.usage.requested += sum(len(request.context) + len(c) for c in {tuple(c[:-1]) for c in request.continuations})
        planned = [(group, list(waves(requests, group))) for group in groups(requests, self.budget)]
        if not planned:
            return
        length = max(self._cells(requests, *each) for each in planned)
        self._first = max(len(group.contexts) for group, _ in planned)  # sequence of a continuation
        sequences = self._first + max((len(wave) for _, each in planned for wave in each), default=0)
        context = Context(self.model, self.settings, length, sequences, unified=True)
        trunk: tuple[int, ...] = ()  # what sequence 0 holds
        for group, each in planned:
            rows = {
                i: _Row([0.0] * len(requests[i].continuations), [True] * len(requests[i].continuations))
                for members in group.contexts.values()
                for i in members
            }
            trunk = self._run_contexts(context, trunk, group, requests, rows)
            for wave in each:
                self._run_wave(context, wave, group, requests, rows)
            for i, row in rows.items():
                yield i, [Score(*score) for score in zip(row.sums, row.greedy, strict=True)]
            for at in range(1, len(group.contexts)):
                context.cut(at, 0)

    def distributions(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[np.ndarray, float]]:
        """The logits [V] after each of a request's `prefixes`, and their logsumexp: request by request, in order."""
        for request in requests:
            self._check(request)
        if not requests:
            return
        length = max(len(request.context) + max(map(len, request.continuations)) for request in requests)
        context = Context(self.model, self.settings, length, 2, unified=True)
        before: tuple[int, ...] = ()
        for request in requests:
            keep = context.cut(0, num_shared(before, request.context[:-1]))
            before = tuple(request.context)
            yield from self._distributions(context, [Part(0, keep, before[keep:], [len(before) - keep - 1])])
            known: set[tuple[int, ...]] = {()}
            for continuation in request.continuations:
                begins = [tuple(continuation[: i + 1]) for i in range(len(continuation) - 1)]
                if not known.issuperset(begins):
                    context.copy(0, 1)
                    new = [i for i, begin in enumerate(begins) if begin not in known]
                    yield from self._distributions(context, [Part(1, len(before), continuation[:-1], new)])
                    known.update(begins)
                    context.cut(1, 0)

    def _distributions(self, context: Context, parts: Sequence[Part]) -> Iterator[tuple[np.ndarray, float]]:
        for _, _, logits_V in self._run(context, parts):
            yield logits_V, _normaliser(logits_V)[0]

    def _check(self, request: ScoreRequest) -> None:
        if not request.context or not request.continuations or not all(request.continuations):
            raise ModelError("a log-likelihood request needs a context and at least one continuation, of at least one token each")
        if (length := len(request.context) + max(map(len, request.continuations)) - 1) > self.limit:
            raise ModelError(f"a request of {length} tokens exceeds the model's max_seq_len of {self.limit}; shorten it")

    def _cells(self, requests: Sequence[ScoreRequest], group: Group, each: Sequence[Sequence[tuple[int, int, int]]]) -> int:
        """Tokens to keep in memory at once."""
        largest = max((sum(len(requests[i].continuations[c]) - 1 for _, i, c in wave) for wave in each), default=0)
        return group.trunk + group.behind_trunk + largest

    def _run_contexts(
        self, context: Context, before: tuple[int, ...], group: Group, requests: Sequence[ScoreRequest], rows: dict[int, _Row]
    ) -> tuple[int, ...]:
        """Run the trunk and what each context has behind it; a context is in the sequence of its index. Returns what sequence 0 holds.

        The first context is run in the trunk's own sequence once the others have their copies.
        """
        contexts = list(group.contexts)
        first = contexts[0]
        keep = context.cut(0, min(num_shared(before, first), group.trunk))
        trunk = Part(0, keep, first[keep : group.trunk])
        parts = [Part(at, group.trunk, each[group.trunk :], [len(each) - group.trunk - 1]) for at, each in enumerate(contexts)]
        if len(contexts) == 1:
            parts.insert(0, trunk)
        else:
            self._run(context, [trunk])
            for at in range(1, len(contexts)):
                context.copy(0, at)
        members = list(group.contexts.values())
        for part, _, logits_V in self._run(context, parts):
            logsumexp, likeliest = _normaliser(logits_V)
            for i in members[part.sequence]:
                for c, continuation in enumerate(requests[i].continuations):
                    rows[i].add(c, continuation[0], logits_V, logsumexp, likeliest)
        return first

    def _run_wave(
        self,
        context: Context,
        wave: Sequence[tuple[int, int, int]],
        group: Group,
        requests: Sequence[ScoreRequest],
        rows: dict[int, _Row],
    ) -> None:
        """Run the continuations, all but the last token of each, in copies of their contexts."""
        contexts, parts = list(group.contexts), []
        for n, (at, i, c) in enumerate(wave):
            sequence, continuation = self._first + n, requests[i].continuations[c]
            context.copy(at, sequence)
            parts.append(Part(sequence, len(contexts[at]), continuation[:-1], range(len(continuation) - 1)))
        for part, index, logits_V in self._run(context, parts):
            _, i, c = wave[part.sequence - self._first]
            rows[i].add(c, requests[i].continuations[c][index + 1], logits_V, *_normaliser(logits_V))
        for part in parts:
            context.cut(part.sequence, 0)

    def _run(self, context: Context, parts: Sequence[Part]) -> list[tuple[Part, int, np.ndarray]] | Iterator[tuple[Part, int, np.ndarray]]:
        self.usage.computed += sum(len(part.tokens) for part in parts)
        found = context.run(parts)
        return found if any(part.wanted for part in parts) else list(found)


def _normaliser(logits_V: np.ndarray) -> tuple[float, int]:
    """The logarithm of the sum of exp(logits), and the likeliest token. Raises NotFinite for logits that are no numbers."""
    likeliest = int(logits_V.argmax())
    largest = logits_V[likeliest]
    if not np.isfinite(largest):
        raise NotFinite("llama.cpp computed a logit that is NaN or infinite, so nothing can be scored; check the file, or run it natively")
    return float(largest) + float(np.log(np.exp(logits_V - largest).sum(dtype=np.float64))), likeliest
