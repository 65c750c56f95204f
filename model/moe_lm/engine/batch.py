"""One forward pass over the new tokens of several sequences."""

from collections.abc import Sequence

from torch import Tensor

from moe_lm.backends.base import Backend, Batch
from moe_lm.engine.pages import PagedCache
from moe_lm.errors import ModelError

HEAD_ROWS = 128  # hidden states whose logits are computed at a time; for a vocabulary of 152,000 these take 78 MB


def forward(backend: Backend, new: Sequence[tuple[Sequence[int], PagedCache]], wanted: Sequence[int]) -> Tensor:
    """Run every sequence's new tokens after its cached ones. All caches belong to one pool.

    Returns the final hidden states [P, D] of the wanted ones, indexed over the concatenated new tokens.
    """
    caches = [cache for _, cache in new]
    ends = [cache.length + len(tokens) for tokens, cache in new]
    for cache, end in zip(caches, ends, strict=True):
        if not cache.grow(end):
            raise ModelError(f"no page is free for the keys and values of {end} tokens; free memory, or run fewer sequences at a time")
    batch = Batch(
        [tokens for tokens, _ in new], [cache.length for cache in caches], [cache.pages for cache in caches], caches[0].pool.memory
    )
    hidden_PD = backend.forward(batch, wanted)
    for cache, end in zip(caches, ends, strict=True):
        cache.length = end
    return hidden_PD
