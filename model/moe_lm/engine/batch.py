"""One forward pass over the new tokens of several sequences.

T tokens of all sequences laid end to end (no padding), H query heads, J key/value heads, d head_dim, S cached + new tokens.

Attention runs sequence by sequence, so that a result can't depend on its neighbours, and in blocks of `BLOCK` queries that begin
at multiples of `BLOCK`: however a sequence is cut into a cached prefix and new tokens, each block meets the same shapes, and so
the same bits. That is with torch's own products; a packed model, on `moe_lm.backends.cpu`, needs none of it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_lm.backends.cpu import launch
from moe_lm.backends.tiles import BLOCK, PREFILL_ROWS, pad_rows, whole_blocks
from moe_lm.engine.pages import PagedCache
from moe_lm.model import Decoder


@torch.inference_mode()
def forward(model: Decoder, new: Sequence[tuple[Sequence[int], PagedCache]], wanted: Sequence[int]) -> Tensor:
    """Run every sequence's new tokens after its past.

    Returns the final hidden states [P, D] of the wanted ones, counted through all the new tokens laid end to end.
    """
    if model.packed:
        return _forward_packed(model, new, wanted)
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


def _forward_packed(model: Decoder, new: Sequence[tuple[Sequence[int], PagedCache]], wanted: Sequence[int]) -> Tensor:
    """As `forward`, on the compiled kernels: no padding, no blocks, and a decode step is a pass like any other."""
    starts = [past.length for _, past in new]
    ends = [start + len(tokens) for start, (tokens, _) in zip(starts, new, strict=True)]
    for (_, past), end in zip(new, ends, strict=True):
        past.grow(end)
    pool, most = new[0][1].pool, max(len(past.pages) for _, past in new)
    positions_T = torch.cat([torch.arange(start, end) for start, end in zip(starts, ends, strict=True)])
    sequences = torch.arange(len(new), dtype=torch.int32).repeat_interleave(torch.tensor([len(tokens) for tokens, _ in new]))
    table = torch.tensor([past.pages + [0] * (most - len(past.pages)) for _, past in new], dtype=torch.int32)
    places = launch.TokenPlaces(positions_T.int(), sequences, table)

    def attend(layer: int, q_THd: Tensor, k_TJd: Tensor, v_TJd: Tensor) -> Tensor:
        k_pages, v_pages = pool.k[layer], pool.v[layer]
        launch.append_kv(k_TJd, v_TJd, places, k_pages, v_pages)
        return launch.paged_attention(q_THd, places, k_pages, v_pages, model.config.sliding_window)

    tokens_T = torch.tensor([t for tokens, _ in new for t in tokens])
    hidden_PD = model(tokens_T, positions_T, attend, torch.tensor(wanted, dtype=torch.int64))
    for (_, past), end in zip(new, ends, strict=True):
        past.length = end
    return hidden_PD


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
