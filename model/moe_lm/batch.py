"""One forward pass over the new tokens of several sequences, and the caches that hold their past.

T tokens of all sequences laid end to end (no padding), H query heads, J key/value heads, d head_dim, S cached + new tokens.

Attention runs sequence by sequence, block by block: a sequence's result can't depend on its neighbours. A faster tenant takes
this file's seat: whatever offers `KVCache` and `forward` serves the scorer and the generator.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_lm.config import ModelConfig
from moe_lm.model import Decoder
from moe_lm.prefix_tree import BLOCK
from moe_lm.tiles import DECODE_ROWS, PREFILL_ROWS, pad_rows

ATTENTION_ROWS = BLOCK  # queries a call; prefixes are shared in whole blocks, so every block is computed in one piece


class Past(Protocol):
    """What a sequence attends to besides its new tokens."""

    length: int

    def extend(self, layer: int, k_JTd: Tensor, v_JTd: Tensor) -> tuple[Tensor, Tensor]:
        """Past and new keys and values of one layer, [J, S, d] each."""


class KVCache:
    """Keys and values of one sequence, up to `capacity` tokens; forward passes append to it."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: torch.dtype, device: torch.device):
        shape = (config.num_hidden_layers, config.num_key_value_heads, capacity, config.head_dim)
        # one [J, capacity, d] tensor a layer, heads first as attention reads them
        self.k = torch.empty(shape, dtype=dtype, device=device).unbind()
        self.v = torch.empty(shape, dtype=dtype, device=device).unbind()
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
        end = self.length + k_JTd.shape[1]
        k, v = self.k[layer], self.v[layer]
        k[:, self.length : end], v[:, self.length : end] = k_JTd, v_JTd
        if layer == len(self.k) - 1:
            self.length = end
        return k[:, :end], v[:, :end]


class Leaf:
    """A sequence's end, after which nothing follows: it reads its prefix's cache and keeps nothing itself."""

    def __init__(self, prefix: KVCache | None):
        self.prefix = prefix
        self.length = prefix.length if prefix else 0

    def extend(self, layer: int, k_JTd: Tensor, v_JTd: Tensor) -> tuple[Tensor, Tensor]:
        if self.prefix is None:
            return k_JTd, v_JTd
        k, v = self.prefix.k[layer][:, : self.length], self.prefix.v[layer][:, : self.length]
        return torch.cat((k, k_JTd), dim=1), torch.cat((v, v_JTd), dim=1)


@torch.inference_mode()
def forward(model: Decoder, new: Sequence[tuple[Sequence[int], Past]]) -> list[Tensor]:
    """Run every sequence's new tokens after its past. Returns the final hidden states, one [T_i, D] a sequence.

    Prefill: a past must end at a multiple of `ATTENTION_ROWS`, so that every block of queries is computed in one piece.
    """
    device = model.embed.weight.device
    lengths = [len(tokens) for tokens, _ in new]
    starts = [past.length for _, past in new]
    total = sum(lengths)
    masks: dict[tuple[int, int], Tensor] = {}  # one for all layers
    tokens_T = torch.tensor([t for tokens, _ in new for t in tokens], device=device)
    positions_T = torch.cat([torch.arange(start, start + n, device=device) for start, n in zip(starts, lengths, strict=True)])

    def attend(layer: int, q_THd: Tensor, k_TJd: Tensor, v_TJd: Tensor) -> Tensor:
        out_THd = torch.zeros_like(q_THd)  # the padding's rows too must hold numbers
        split = (x[:total].transpose(0, 1).split(lengths, dim=1) for x in (out_THd, q_THd, k_TJd, v_TJd))
        for (_, past), start, out_HTd, q_HTd, k_JTd, v_JTd in zip(new, starts, *split, strict=True):
            k_JSd, v_JSd = past.extend(layer, k_JTd, v_JTd)
            _causal(out_HTd, q_HTd, k_JSd, v_JSd, start, masks)
        return out_THd

    hidden_TD = model(pad_rows(tokens_T, PREFILL_ROWS), pad_rows(positions_T, PREFILL_ROWS), attend)
    return list(hidden_TD[:total].split(lengths))


@torch.inference_mode()
def decode_step(model: Decoder, new: Sequence[tuple[int, KVCache]]) -> Tensor:
    """Run one new token of every sequence after its cache. Returns the final hidden states [N, D]."""
    device = model.embed.weight.device
    N = len(new)
    assert N <= PREFILL_ROWS - DECODE_ROWS, "more rows would be taken for a prefill's (see moe_lm.tiles)"
    tokens_N = torch.tensor([token for token, _ in new], device=device)
    positions_N = torch.tensor([cache.length for _, cache in new], device=device)

    def attend(layer: int, q_NHd: Tensor, k_NJd: Tensor, v_NJd: Tensor) -> Tensor:
        out_NHd = torch.zeros_like(q_NHd)
        J = k_NJd.shape[1]
        # the query heads of one key/value head are the G rows of one small product
        out_NJGd, q_NJGd = out_NHd.unflatten(1, (J, -1)), q_NHd.unflatten(1, (J, -1))
        for i, (_, cache) in enumerate(new):
            k_JSd, v_JSd = cache.extend(layer, k_NJd[i, :, None], v_NJd[i, :, None])
            out_NJGd[i] = F.scaled_dot_product_attention(q_NJGd[i : i + 1], k_JSd[None], v_JSd[None])[0]
        return out_NHd

    return model(pad_rows(tokens_N, DECODE_ROWS), pad_rows(positions_N, DECODE_ROWS), attend)[:N]


def _causal(out_HTd: Tensor, q_HTd: Tensor, k_JSd: Tensor, v_JSd: Tensor, start: int, masks: dict[tuple[int, int], Tensor]) -> None:
    """Positions start..S-1 attend to themselves and all before, in blocks of queries that end at fixed positions.

    However a sequence is cut into a cached prefix and new tokens, each block meets the same shapes, and so the same bits.
    """
    S = k_JSd.shape[1]
    for begin in range(start, S, ATTENTION_ROWS):
        end = min(begin + ATTENTION_ROWS, S)
        if (begin, end) not in masks:
            # added to the scores: -inf above the diagonal, 0 elsewhere
            masks[begin, end] = torch.full((end - begin, end), -torch.inf, dtype=q_HTd.dtype, device=q_HTd.device).triu(begin + 1)
        q, k, v = q_HTd[:, begin - start : end - start], k_JSd[:, :end], v_JSd[:, :end]
        out = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=masks[begin, end], enable_gqa=True)
        out_HTd[:, begin - start : end - start] = out[0]
