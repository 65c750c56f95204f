"""Log-probabilities of every token of prompts, with the likeliest tokens at each position: the `echo` of a completions API.

The scorer returns a continuation's sum and runs the head only there; this returns every position, for serving. Shared prefixes are
computed once here too, and the values equal the scorer's (see `moe_lm.engine.batch`).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from moe_lm.backends.base import Backend
from moe_lm.engine import prefix_tree
from moe_lm.engine.batch import HEAD_ROWS, forward
from moe_lm.engine.pages import pool_for
from moe_lm.engine.prefix_walk import Piece, walk
from moe_lm.errors import ModelError


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token's log-probability (natural log) given all before it, and the likeliest tokens there: (id, logprob), best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


def prompt_scores(
    backend: Backend, prompts: Sequence[Sequence[int]], num_top: int = 1, token_budget: int = 2048
) -> list[list[TokenScore | None]]:
    """One entry per token of each prompt; None for the first, which has no context. Raises ModelError for prompts that are too long."""
    limit = backend.config.max_seq_len
    for prompt in prompts:
        if not 1 <= len(prompt) <= limit:
            raise ModelError(f"a prompt of {len(prompt)} tokens: the model takes 1 to {limit} (its max_seq_len)")
    found: list[list[TokenScore | None]] = [[None] * len(prompt) for prompt in prompts]
    owners: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        owners[tuple(prompt)].append(i)
    sequences = list(owners)
    for pieces in walk(pool_for(backend), prefix_tree.build(sequences), token_budget):
        for member, position, score in _run(backend, pieces, sequences, num_top):
            for i in owners[sequences[member]]:
                found[i][position] = score
    return found


@torch.inference_mode()
def _run(
    backend: Backend, pieces: list[Piece], sequences: Sequence[tuple[int, ...]], num_top: int
) -> Iterator[tuple[int, int, TokenScore]]:
    """(sequence, position, its token's score) for all tokens that come after those of one pass."""
    rows: list[tuple[Piece, int]] = []  # (piece, position of the token that the row predicts)
    for piece in pieces:
        rows += [(piece, piece.node.start + at + 1) for at in range(piece.begin, piece.end)]
    hidden_TD = forward(backend, [(piece.tokens, piece.past) for piece in pieces], range(len(rows)))
    following = iter(rows)
    for some_TD in hidden_TD.split(HEAD_ROWS):
        logits_TV = backend.logits(some_TD)
        logsumexp_T1 = backend.logsumexp(logits_TV)[:, None]
        top = logits_TV.topk(min(num_top, logits_TV.shape[-1]), dim=-1)
        # argmax breaks ties towards the lower id, topk does not specify; the best one must be greedy decoding's
        best = logits_TV.argmax(-1).tolist() if num_top else []
        top_logprobs, top_ids = (top.values - logsumexp_T1).tolist(), top.indices.tolist()
        for row, (logits_V, logsumexp_1) in enumerate(zip(logits_TV, logsumexp_T1, strict=True)):
            piece, position = next(following)
            members = [m for m in piece.node.members if position < len(sequences[m])]
            if not members:
                continue
            logprobs = (logits_V[[sequences[m][position] for m in members]] - logsumexp_1).tolist()
            likeliest = dict(zip(top_ids[row], top_logprobs[row], strict=True))
            if num_top:
                likeliest = {best[row]: top_logprobs[row][0]} | likeliest
            for member, logprob in zip(members, logprobs, strict=True):
                yield member, position, TokenScore(logprob, tuple(likeliest.items())[:num_top])
