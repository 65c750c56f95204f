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

    def extend(self, layer: int, k_TJd: Tensor, v_TJd: Tensor) -> tuple[Tensor, Tensor]:
        """Past and new keys and values of one layer, [S, J, d] each."""


class KVCache:
    """Keys and values of one sequence, up to `capacity` tokens; forward passes append to it."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: torch.dtype, device: torch.device):
        shape = (config.num_hidden_layers, capacity, config.num_key_value_heads, config.head_dim)
        self.k_LSJd = torch.empty(shape, dtype=dtype, device=device)
        self.v_LSJd = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    @classmethod
    def like(cls, model: Decoder, capacity: int, prefix: "KVCache | None" = None) -> "KVCache":
        """A cache for `model` of `capacity` tokens that begins with a copy of the prefix's."""
        cache = cls(model.config, capacity, model.embed.weight.dtype, model.embed.weight.device)
        if prefix:
            n = cache.length = prefix.length
            cache.k_LSJd[:, :n], cache.v_LSJd[:, :n] = prefix.k_LSJd[:, :n], prefix.v_LSJd[:, :n]
        return cache

    def extend(self, layer: int, k_TJd: Tensor, v_TJd: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + len(k_TJd)
        self.k_LSJd[layer, self.length : end], self.v_LSJd[layer, self.length : end] = k_TJd, v_TJd
        if layer == len(self.k_LSJd) - 1:
            self.length = end
        return self.k_LSJd[layer, :end], self.v_LSJd[layer, :end]


class Leaf:
    """A sequence's end, after which nothing follows: it reads its prefix's cache and keeps nothing itself."""

    def __init__(self, prefix: KVCache | None):
        self.prefix = prefix
        self.length = prefix.length if prefix else 0

    def extend(self, layer: int, k_TJd: Tensor, v_TJd: Tensor) -> tuple[Tensor, Tensor]:
        if self.prefix is None:
            return k_TJd, v_TJd
        n = self.length
        return torch.cat((self.prefix.k_LSJd[layer, :n], k_TJd)), torch.cat((self.prefix.v_LSJd[layer, :n], v_TJd))


@torch.inference_mode()
def forward(model: Decoder, new: Sequence[tuple[Sequence[int], Past]], tile: int = PREFILL_ROWS) -> list[Tensor]:
    """Run every sequence's new tokens after its past. Returns the final hidden states, one [T_i, D] a sequence.

    A past must end at a multiple of `ATTENTION_ROWS`, unless there is one new token (decoding).
    """
    device = model.embed.weight.device
    lengths = [len(tokens) for tokens, _ in new]
    starts = [past.length for _, past in new]
    total = sum(lengths)
    tokens_T = torch.tensor([t for tokens, _ in new for t in tokens], device=device)
    positions_T = torch.cat([torch.arange(start, start + n, device=device) for start, n in zip(starts, lengths, strict=True)])

    def attend(layer: int, q_THd: Tensor, k_TJd: Tensor, v_TJd: Tensor) -> Tensor:
        out_THd = torch.zeros_like(q_THd)  # the padding's rows too must hold numbers
        split = (x[:total].split(lengths) for x in (out_THd, q_THd, k_TJd, v_TJd))
        for (_, past), start, out, q, k, v in zip(new, starts, *split, strict=True):
            _causal(out, q, *past.extend(layer, k, v), start, decoding=tile == DECODE_ROWS)
        return out_THd

    hidden_TD = model(pad_rows(tokens_T, tile), pad_rows(positions_T, tile), attend)
    return list(hidden_TD[:total].split(lengths))


def _causal(out_THd: Tensor, q_THd: Tensor, k_SJd: Tensor, v_SJd: Tensor, start: int, decoding: bool) -> None:
    """Positions start..S-1 attend to themselves and all before, in blocks of queries that end at fixed positions.

    However a sequence is cut into a cached prefix and new tokens, each block meets the same shapes, and so the same bits.
    """
    if decoding and len(q_THd) == 1:  # by phase, not by length alone: a prefill's rest of one token may be shared or not
        # the query heads of one key/value head are the rows of one small product
        q_JGd = q_THd.view(1, k_SJd.shape[1], -1, q_THd.shape[-1])
        out_THd.copy_(F.scaled_dot_product_attention(q_JGd, _heads_first(k_SJd), _heads_first(v_SJd)).view_as(out_THd))
        return
    for begin in range(start, len(k_SJd), ATTENTION_ROWS):
        end = min(begin + ATTENTION_ROWS, len(k_SJd))
        mask = torch.ones(end - begin, end, dtype=torch.bool, device=q_THd.device).tril(begin)
        q, k, v = _heads_first(q_THd[begin - start : end - start]), _heads_first(k_SJd[:end]), _heads_first(v_SJd[:end])
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        out_THd[begin - start : end - start] = out[0].transpose(0, 1)


def _heads_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1)[None]  # [tokens, heads, d] -> [1, heads, tokens, d]
