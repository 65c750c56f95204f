"""One forward pass over the new tokens of several sequences, and the caches that hold a scored prefix.

T tokens of all sequences laid end to end (no padding), H query heads, J key/value heads, d head_dim, S cached + new tokens.

Attention runs sequence by sequence, so that a result can't depend on its neighbours, and in blocks of `BLOCK` queries that begin
at multiples of `BLOCK`: however a sequence is cut into a cached prefix and new tokens, each block meets the same shapes, and so
the same bits. A generator's sequences keep their past on pages instead (see `moe_lm.pages`) and decode by `moe_lm.page_attention`.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_lm.config import ModelConfig
from moe_lm.model import Decoder
from moe_lm.tiles import PREFILL_ROWS, pad_rows

BLOCK = 32  # queries a call of attention, and what the number of keys is rounded up to


class Past(Protocol):
    """What a sequence attends to besides its new tokens."""

    length: int

    def extend(self, layer: int, k_JTd: Tensor, v_JTd: Tensor) -> tuple[Tensor, Tensor]:
        """Past and new keys and values of one layer, then numbers up to a whole block: [J, S rounded up, d] each."""


class KVCache:
    """Keys and values of one sequence, up to `capacity` tokens; forward passes append to it."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: torch.dtype, device: torch.device):
        shape = (config.num_hidden_layers, config.num_key_value_heads, whole_blocks(capacity), config.head_dim)
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
        return k[:, : whole_blocks(end)], v[:, : whole_blocks(end)]


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
            padding = (0, 0, 0, whole_blocks(end) - end)
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
    mask_BS = _mask(whole_blocks(max(map(sum, zip(starts, lengths, strict=True)))), window, model.embed.weight.dtype, device)

    def attend(layer: int, q_THd: Tensor, k_TJd: Tensor, v_TJd: Tensor) -> Tensor:
        split = (x[:total].transpose(0, 1).split(lengths, dim=1) for x in (q_THd, k_TJd, v_TJd))
        out = []
        for (_, past), start, q_HTd, k_JTd, v_JTd in zip(new, starts, *split, strict=True):
            k_JSd, v_JSd = past.extend(layer, k_JTd, v_JTd)
            out.append(_causal(q_HTd, k_JSd, v_JSd, start, mask_BS, window))
        return torch.cat([*out, torch.zeros_like(q_THd[total:])])  # the padding's rows too must hold numbers

    wanted_P = pad_rows(torch.tensor(wanted, dtype=torch.int64, device=device), PREFILL_ROWS)
    return model(pad_rows(tokens_T, PREFILL_ROWS), pad_rows(positions_T, PREFILL_ROWS), attend, wanted_P)[: len(wanted)]


def _causal(q_HTd: Tensor, k_JSd: Tensor, v_JSd: Tensor, start: int, mask_BS: Tensor, window: int | None) -> Tensor:
    """Attention of positions start..start+T-1 to themselves and those before; S is a multiple of BLOCK = B. Returns [T, H, d]."""
    T, S = q_HTd.shape[1], k_JSd.shape[1]
    lead = start % BLOCK
    blocks = F.pad(q_HTd, (0, 0, lead, S - start - T)).split(BLOCK, dim=1)
    attend = _attend_float32 if q_HTd.device.type == "cpu" and q_HTd.dtype == torch.float32 else _attend_any
    out = []
    for q, end in zip(blocks, range(start - lead + BLOCK, S + 1, BLOCK), strict=True):
        # no key before the window of the block's first query
        begin = max(0, (end - BLOCK - window + 1) // BLOCK * BLOCK) if window else 0
        out.append(attend(q, k_JSd[:, begin:end], v_JSd[:, begin:end], mask_BS[:, begin - end :] if window else mask_BS[:, -BLOCK:]))
    return torch.cat(out, dim=1).transpose(0, 1)[lead : lead + T]


def _attend_float32(q_HBd: Tensor, k_JSd: Tensor, v_JSd: Tensor, mask_Bm: Tensor) -> Tensor:
    """One block's attention; the mask is of the last m keys. [H, B, d]

    The query heads of one key/value head are the rows of one product: half as long again as torch's own attention takes for so few rows.
    """
    (H, B, d), (J, S, _), m = q_HBd.shape, k_JSd.shape, mask_Bm.shape[1]
    scores_JRS = torch.bmm((q_HBd * d**-0.5).reshape(J, -1, d), k_JSd.transpose(1, 2))
    scores_JRS.view(H, B, S)[:, :, S - m :] += mask_Bm
    return torch.bmm(torch.softmax(scores_JRS, dim=-1, out=scores_JRS), v_JSd).view(H, B, d)


def _attend_any(q_HBd: Tensor, k_JSd: Tensor, v_JSd: Tensor, mask_Bm: Tensor) -> Tensor:
    """As `_attend_float32`, for any device and precision: the scores of a product in bfloat16 would be rounded to it."""
    mask_BS = F.pad(mask_Bm, (k_JSd.shape[1] - mask_Bm.shape[1], 0))
    return F.scaled_dot_product_attention(q_HBd[None], k_JSd[None], v_JSd[None], attn_mask=mask_BS, enable_gqa=True)[0]


def _mask(S: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to the scores of the last block of queries: 0 for what each may see, else -inf. [B, S]

    Its last columns, n of them, are the mask of any block of queries and the n keys up to that block's end.
    """
    visible_BS = torch.ones((BLOCK, S), dtype=torch.bool, device=device).tril(S - BLOCK)
    if window:
        visible_BS = visible_BS.triu(S - BLOCK - window + 1)
    return torch.zeros((BLOCK, S), dtype=dtype, device=device).masked_fill_(~visible_BS, -torch.inf)


def whole_blocks(length: int) -> int:
    return length + -length % BLOCK
