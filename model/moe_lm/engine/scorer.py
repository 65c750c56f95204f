"""Log-likelihood of continuations: every shared prefix is computed once, and the output head only where tokens are scored.

Requests are cut into sequences (context and one continuation, less its last token), the sequences into a prefix tree,
which is walked depth first in passes of `token_budget` tokens. What several requests begin with can be kept for those of later calls.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from moe_lm.backends.base import Backend
from moe_lm.engine import prefix_tree
from moe_lm.engine.batch import HEAD_ROWS, forward
from moe_lm.engine.not_finite import explain, suspect
from moe_lm.engine.pages import Known, PagePool, pool_for
from moe_lm.engine.prefix_tree import Node
from moe_lm.engine.prefix_walk import Piece, walk
from moe_lm.engine.usage import Usage
from moe_lm.errors import ModelError


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Token ids of a context (not empty) and of the continuations to score after it (none empty)."""

    context: Sequence[int]
    continuations: Sequence[Sequence[int]]

    @property
    def prefixes(self) -> list[tuple[int, ...]]:
        """The distinct beginnings of continuations that a token is scored after, in order of first appearance."""
        return list(dict.fromkeys(tuple(c[:j]) for c in self.continuations for j in range(len(c))))


@dataclass(frozen=True, slots=True)
class Score:
    """Sum of a continuation's token log-probabilities (natural log), and whether greedy decoding would produce it."""

    logprob: float
    is_greedy: bool


@dataclass(slots=True)
class _Pending:
    """A request's token log-probabilities as they arrive: rows[continuation][token] = (logprob, is_argmax)."""

    rows: list[list[tuple[float, bool] | None]]
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        self.missing = sum(map(len, self.rows))

    def scores(self) -> list[Score]:
        return [Score(sum(r[0] for r in row if r), all(r[1] for r in row if r)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class _Want:
    position: int  # whose hidden state predicts the token
    token: int
    request: int
    continuation: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a hidden state comes from: a node, and how many of its tokens are run by then."""

    node: Node
    length: int

    @property
    def tokens(self) -> list[int]:
        """The whole sequence up to it."""
        return [*self.node.before(), *self.node.tokens[: self.length]]


class Scorer:
    def __init__(self, backend: Backend, token_budget: int = 2048, pool: PagePool | None = None, keep_prefixes: bool = False):
        """Keys and values go to `pool`, by default half of the free memory.

        With `keep_prefixes`, what requests begin with is computed once for all calls, as far as its pages are not needed for others.
        """
        self.backend, self.token_budget, self.keep_prefixes = backend, token_budget, keep_prefixes
        self.pool = pool or pool_for(backend)
        if keep_prefixes:
            self.pool.keep_more()
        self.usage = Usage()

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, list[Score]]]:
        """Yield (index of the request, one Score per continuation) as soon as each is known, in any order."""
        pending, sequences, wants = self._plan(requests)
        for pieces in self._walk(sequences, wants):
            for want, row in self._run(pieces, wants):
                request = pending[want.request]
                request.rows[want.continuation][want.offset] = row
                request.missing -= 1
                if not request.missing:
                    yield want.request, request.scores()

    def _plan(self, requests: Sequence[ScoreRequest]) -> tuple[list[_Pending], list[tuple[int, ...]], list[list[_Want]]]:
        """Distinct sequences and, for each, the tokens to score. Equal sequences (one-token continuations) become one."""
        limit = self.backend.config.max_seq_len
        wants: defaultdict[tuple[int, ...], list[_Want]] = defaultdict(list)
        for i, request in enumerate(requests):
            if not request.context or not request.continuations or not all(request.continuations):
                raise ModelError("a log-likelihood request needs a context and at least one continuation, of at least one token each")
            for c, continuation in enumerate(request.continuations):
                tokens = (*request.context, *continuation[:-1])
                if len(tokens) > limit:
                    raise ModelError(f"a request of {len(tokens)} tokens exceeds the model's max_seq_len of {limit}; shorten it")
                first = len(request.context) - 1
                wants[tokens] += [_Want(first + j, token, i, c, j) for j, token in enumerate(continuation)]
            self.usage.requested += sum(len(request.context) + len(c) for c in {tuple(c[:-1]) for c in request.continuations})
        pending = [_Pending([[None] * len(c) for c in r.continuations]) for r in requests]
        return pending, list(wants), list(wants.values())

    def _walk(self, sequences: Sequence[tuple[int, ...]], wants: Sequence[Sequence[_Want]]) -> Iterator[list[Piece]]:
        """The passes in which all sequences are run. What is worth keeping is remembered as soon as it is run."""

        def find(node: Node) -> Known:
            """What is known before the first token after which one is scored: that one has to be run."""
            scored = [want.position for i in node.members for want in wants[i] if node.start <= want.position < node.end]
            return self.pool.find(node.path[: min(scored, default=node.end)])

        for pieces in walk(self.pool, prefix_tree.build(sequences), self.token_budget, find if self.keep_prefixes else None):
            yield pieces
            for piece in pieces:
                if self.keep_prefixes and piece.is_last:
                    # a single request's beginning is for those to come, unless most of it is known: the rest is its own question
                    is_shared = len({want.request for i in piece.node.members for want in wants[i]}) > 1
                    if is_shared or piece.node.end > 2 * piece.past.reusable:
                        piece.past.remember(piece.node.path)

    @torch.inference_mode()
    def distributions(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[Tensor, float]]:
        """The logits [V] after each of a request's `prefixes`, and their logsumexp: request by request, in order.

        Everything is run first; the hidden states [D] are held, and logits of HEAD_ROWS positions at a time are made of them.
        """
        _, sequences, wants = self._plan(requests)
        hidden: dict[tuple[int, tuple[int, ...]], tuple[Tensor, _Place]] = {}
        for pieces in self._walk(sequences, wants):
            groups, places, hidden_PD = self._forward(pieces, wants)
            for group, place, hidden_D in zip(groups, places, hidden_PD.clone(), strict=True):
                for want in group:
                    prefix = tuple(requests[want.request].continuations[want.continuation][: want.offset])
                    hidden[want.request, prefix] = hidden_D, place
        ordered = ((i, prefix) for i, request in enumerate(requests) for prefix in request.prefixes)
        while some := [hidden.pop(key) for key in islice(ordered, HEAD_ROWS)]:
            for logits_V, logsumexp, _ in self._logits(torch.stack([row for row, _ in some]), (place for _, place in some)):
                yield logits_V, float(logsumexp)

    @torch.inference_mode()
    def _run(self, pieces: list[Piece], wants: list[list[_Want]]) -> Iterator[tuple[_Want, tuple[float, bool]]]:
        """(logprob, is_argmax) of each token to score in these pieces; the head runs once for each distinct position."""
        groups, places, hidden_PD = self._forward(pieces, wants)
        for group, (logits_V, logsumexp, argmax) in zip(groups, self._logits(hidden_PD, places), strict=True):
            logprobs = (logits_V[[w.token for w in group]] - logsumexp).tolist()
            for want, logprob in zip(group, logprobs, strict=True):
                yield want, (logprob, argmax == want.token)

    def _forward(self, pieces: list[Piece], wants: list[list[_Want]]) -> tuple[list[list[_Want]], list[_Place], Tensor]:
        """Run the pieces in one pass: what is scored at each distinct position, where that is, and the hidden states [P, D] there."""
        at: defaultdict[int, list[_Want]] = defaultdict(list)  # row in the pass -> the tokens to score there
        places: dict[int, _Place] = {}
        first = 0  # row of the piece's first token
        for piece in pieces:
            start, end = piece.node.start + piece.begin, piece.node.start + piece.end
            for want in (w for i in piece.node.members for w in wants[i] if start <= w.position < end):
                row = first + want.position - start
                at[row].append(want)
                places[row] = _Place(piece.node, want.position + 1 - piece.node.start)
            first += end - start
        self.usage.computed += first
        hidden_PD = forward(self.backend, [(piece.tokens, piece.past) for piece in pieces], list(at))
        return list(at.values()), list(places.values()), hidden_PD

    def _logits(self, hidden_PD: Tensor, places: Iterable[_Place]) -> Iterator[tuple[Tensor, Tensor, int]]:
        """(logits [V], logsumexp, argmax) of each hidden state. Raises NotFinite where the model overflows."""
        rest = iter(places)
        for some_PD in hidden_PD.split(HEAD_ROWS):
            logits_PV = self.backend.logits(some_PD)
            suspect_P = suspect(some_PD, logits_PV).tolist()
            for logits_V, logsumexp, argmax, is_suspect in zip(
                logits_PV, self.backend.logsumexp(logits_PV), self.backend.argmax(logits_PV).tolist(), suspect_P, strict=True
            ):
                place = next(rest)
                if is_suspect and (error := explain(self.backend, place.tokens, "no continuation can be scored")):
                    raise error
                yield logits_V, logsumexp, argmax
