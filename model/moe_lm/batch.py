"""One forward pass over the new tokens of several sequences, and the caches that hold their past.

T tokens of all sequences laid end to end (no padding), H query heads, J key/value heads, d head_dim, S cached + new tokens.

Attention runs sequence by sequence, so that a result can't depend on its neighbours, and in blocks of `BLOCK` queries that begin
at multiples of `BLOCK`: however a sequence is cut into a cached prefix and new tokens, each block meets the same shapes, and so
the same bits. A faster tenant takes this file's seat: whatever offers `KVCache` and `forward` serves the scorer and the generator.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_lm.config import ModelConfig
from moe_lm.model import Decoder
from moe_lm.tiles import PREFILL_ROWS, ROWS, pad_rows

BLOCK = 32  # queries a call of attention, and what the number of keys is rounded up to


class Past(Protocol):
    """What a sequence attends to besides its new tokens."""

    length: int

    def extend(self, layer: int, k_JTd: Tensor, v_JTd: Tensor) -> tuple[Tensor, Tensor]:
        """Past and new keys and values of one layer, then numbers up to a whole block: [J, S rounded up, d] each."""


class KVCache:
    """Keys and values of one sequence, up to `capacity` tokens; forward passes append to it."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: torch.dtype, device: torch.device):
        shape = (config.num_hidden_layers, config.num_key_value_heads, _whole_blocks(capacity), config.head_dim)
        # one [J, capacity, d] tensor a layer, heads first as attention reads them; zeros, as a masked NaN would be one still
        self.k = torch.zeros(shape, dtype=dtype, device=device).unbind()
        self.v = torch.zeros(shape, dtype=dtype, device=device).unbind()
        self.length = 0

    @classmethod
    def like(cls, model: Decoder, capacity: int, prefix: "KVCache | None" = None) -> "KVCache":
        """A cache for `model` of `capacity` tokens that begins with a copy of the prefix's."""
        cache = cls(model.config, capacity, model.embed.weight.dtype, model.embed.weight.device)
        if prefix:
            n = cache.length = prefix.length
            for mine, theirs in zip((*cache.k, *cache.v), (*prefix.k, *prefix.v), strict=True):
                mine[:, :n] = theirs[:, :n]
        return cache

    def extend(self, layer: int, k_JTd: Tensor, v_JTd: Tensor) -> tuple[Tensor, Tensor]:
        start = self.length
        if layer == len(self.k) - 1:
            self.length += k_JTd.shape[1]
        return self.write(layer, start, k_JTd, v_JTd)

    def write(self, layer: int, start: int, k_JTd: Tensor, v_JTd: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values at positions from `start` on; returns all up to their end, as `Past.extend` does."""
        k, v, end = self.k[layer], self.v[layer], start + k_JTd.shape[1]
        k[:, start:end], v[:, start:end] = k_JTd, v_JTd
        return k[:, : _whole_blocks(end)], v[:, : _whole_blocks(end)]


class Leaf:
    """A sequence's end, after which nothing follows: it keeps nothing, and borrows the room behind its prefix in the prefix's cache.

    That room must hold the longest leaf; leaves of one prefix use it one after the other.
    """

    def __init__(self, prefix: KVCache | None):
        self.prefix = prefix
        self.length = prefix.length if prefix else 0

    def extend(self, layer: int, k_JTd: Tensor, v_JTd: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + k_JTd.shape[1]
        if self.prefix is None:
            padding = (0, 0, 0, _whole_blocks(end) - end)
            return F.pad(k_JTd, padding), F.pad(v_JTd, padding)
        return self.prefix.write(layer, self.length, k_JTd, v_JTd)


@torch.inference_mode()
def forward(model: Decoder, new: Sequence[tuple[Sequence[int], Past]], wanted: Sequence[int]) -> Tensor:
    """Run every sequence's new tokens after its past.

    Returns the final hidden states [P, D] of the wanted ones, counted through all the new tokens laid end to end.
    """
    device = model.embed.weight.device
    lengths = [len(tokens) for tokens, _ in new]
    starts = [past.length for _, past in new]
    total = sum(lengths)
    tokens_T = torch.tensor([t for tokens, _ in new for t in tokens], device=device)
    positions_T = torch.cat([torch.arange(start, start + n, device=device) for start, n in zip(starts, lengths, strict=True)])
    window = model.config.sliding_window
    mask_BS = _mask(_whole_blocks(max(map(sum, zip(starts, lengths, strict=True)))), window, model.embed.weight.dtype, device)

    def attend(layer: int, q_THd: Tensor, k_TJd: Tensor, v_TJd: Tensor) -> Tensor:
        split = (x[:total].transpose(0, 1).split(lengths, dim=1) for x in (q_THd, k_TJd, v_TJd))
        out = []
        for (_, past), start, q_HTd, k_JTd, v_JTd in zip(new, starts, *split, strict=True):
            k_JSd, v_JSd = past.extend(layer, k_JTd, v_JTd)
            out.append(_causal(q_HTd, k_JSd, v_JSd, start, mask_BS, window))
        return torch.cat([*out, torch.zeros_like(q_THd[total:])])  # the padding's rows too must hold numbers

    wanted_P = pad_rows(torch.tensor(wanted, dtype=torch.int64, device=device), PREFILL_ROWS)
    return model(pad_rows(tokens_T, PREFILL_ROWS), pad_rows(positions_T, PREFILL_ROWS), attend, wanted_P)[: len(wanted)]


@torch.inference_mode()
def decode_step(model: Decoder, new: Sequence[tuple[int, KVCache]]) -> Tensor:
    """Run one new token of every sequence after its cache. Returns the final hidden states [N, D]."""
    device = model.embed.weight.device
    window = model.config.sliding_window or model.config.max_seq_len
    assert len(new) <= PREFILL_ROWS - ROWS, "more rows would be taken for a prefill's (see moe_lm.tiles)"
    tokens_N = torch.tensor([token for token, _ in new], device=device)
    positions_N = torch.tensor([cache.length for _, cache in new], device=device)

    def attend(layer: int, q_NHd: Tensor, k_NJd: Tensor, v_NJd: Tensor) -> Tensor:
        out_NHd = torch.zeros_like(q_NHd)
        J = k_NJd.shape[1]
        # the query heads of one key/value head are the G rows of one small product
        out_NJGd, q_NJGd = out_NHd.unflatten(1, (J, -1)), q_NHd.unflatten(1, (J, -1))
        for i, (_, cache) in enumerate(new):
            S = cache.length + 1
            k_JSd, v_JSd = (x[:, max(0, S - window) : S] for x in cache.extend(layer, k_NJd[i, :, None], v_NJd[i, :, None]))
            out_NJGd[i] = F.scaled_dot_product_attention(q_NJGd[i : i + 1], k_JSd[None], v_JSd[None])[0]
        return out_NHd

    all_N = pad_rows(torch.arange(len(new), device=device))
    return model(pad_rows(tokens_N), pad_rows(positions_N), attend, all_N)[: len(new)]


def _causal(q_HTd: Tensor, k_JSd: Tensor, v_JSd: Tensor, start: int, mask_BS: Tensor, window: int | None) -> Tensor:
    """Attention of positions start..start+T-1 to themselves and those before; S is a multiple of BLOCK = B. Returns [T, H, d]."""
    T, S = q_HTd.shape[1], k_JSd.shape[1]
    lead = start % BLOCK
    blocks = F.pad(q_HTd, (0, 0, lead, S - start - T)).split(BLOCK, dim=1)
    out = []
    for q, end in zip(blocks, range(start - lead + BLOCK, S + 1, BLOCK), strict=True):
        # no key before the window of the block's first query
        begin = max(0, (end - BLOCK - window + 1) // BLOCK * BLOCK) if window else 0
        k, v, mask = k_JSd[None, :, begin:end], v_JSd[None, :, begin:end], mask_BS[:, begin - end :]
        out.append(F.scaled_dot_product_attention(q[None], k, v, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(out)[lead : lead + T]


def _mask(S: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to the scores of the last block of queries: 0 for what each may see, else -inf. [B, S]

    Its last columns, n of them, are the mask of any block of queries and the n keys up to that block's end.
    """
    visible_BS = torch.ones((BLOCK, S), dtype=torch.bool, device=device).tril(S - BLOCK)
    if window:
        visible_BS = visible_BS.triu(S - BLOCK - window + 1)
    return torch.zeros((BLOCK, S), dtype=dtype, device=device).masked_fill_(~visible_BS, -torch.inf)


def _whole_blocks(length: int) -> int:
    return length + -length % BLOCK
