"""Decode attention over a paged cache: one query a sequence, keys and values found through a page table.

B sequences, H query heads, J key/value heads, G = H / J; d head_dim, N tokens a page, P pages, M pages a row of the table;
R rows of a program (query heads of one or several sequences), S keys a step. Pages are [P, J, N, d]: one head's keys of a page
are contiguous.

Floors, bf16: bytes 4 J d a token of context (its key and value), FLOPs 4 H d a token. Qwen1.5-MoE (J = H = 16, d = 128): 8,192 B and
8,192 FLOPs a token and layer; B = 128 at context 1500: 1.57 GB, 524 us at 3.0 TB/s, and 2 us of arithmetic: bytes decide.

Keys are taken in splits of SPLIT tokens that begin at multiples of SPLIT, each summed apart, then added up in their order. The
size is fixed, not the number: a sequence's result depends only on its own tokens, not on the rest of the batch. How the splits are
distributed is free: one program handles them in turn if there are enough sequences to fill the device (`fused`), else there is one
program per split and a second launch. Splits of a prefix that the whole batch shares are computed for several sequences at a time,
so that its keys are read once for all of them (a cascade). All three give the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lm.backends.cuda.launch import dot, narrow, num_programs

SPLIT = 256
BLOCK_S = 64  # keys a step
ROWS = 16  # the least that the tensor cores take
SHARED_ROWS = 32  # still the same instruction as for 16
NUM_STAGES = 3  # of the pipeline: page numbers, then keys and values, then products
LOG2_E = 1.4426950408889634


@triton.jit
def _fold(max_R, sum_R, out_Rd, more_max_R, more_sum_R, more_out_Rd):
    """Two partial softmaxes into one. Written out as fused multiply-adds, so that every kernel rounds alike."""
    new_R = tl.maximum(max_R, more_max_R)
    shift_R = tl.where(new_R == -float("inf"), 0.0, new_R)  # no keys so far
    a_R, b_R = tl.exp2(max_R - shift_R), tl.exp2(more_max_R - shift_R)
    return new_R, tl.fma(sum_R, a_R, more_sum_R * b_R), tl.fma(out_Rd, a_R[:, None] + tl.zeros_like(out_Rd), more_out_Rd * b_R[:, None])


@triton.jit
def _one_split(
    q_Rd,
    k_ptr,
    v_ptr,
    table_ptr,
    head,
    begin,
    end,
    lengths_R,
    scale,
    J: tl.constexpr,
    N: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Largest score, sum and weighted values over keys begin..end (a multiple of BLOCK_S, the first), as each row may see them."""
    columns_d = tl.arange(0, q_Rd.shape[1])
    max_R = tl.full(lengths_R.shape, -float("inf"), tl.float32)
    sum_R = tl.zeros(lengths_R.shape, tl.float32)
    out_Rd = tl.zeros(q_Rd.shape, tl.float32)
    for s0 in range(begin, end, BLOCK_S):
        keys_S = s0 + tl.arange(0, BLOCK_S)
        page_S = tl.load(table_ptr + keys_S // N, mask=keys_S < end, other=0).to(tl.int64)
        offset_Sd = ((page_S * J + head) * N + keys_S % N)[:, None] * HEAD_DIM + columns_d[None, :]
        mask_Sd = (keys_S < end)[:, None] & (columns_d < HEAD_DIM)[None, :]
        k_Sd = tl.load(k_ptr + offset_Sd, mask=mask_Sd, other=0.0)
        v_Sd = tl.load(v_ptr + offset_Sd, mask=mask_Sd, other=0.0)
        score_RS = dot(q_Rd, tl.trans(k_Sd), tl.zeros((q_Rd.shape[0], BLOCK_S), tl.float32)) * scale
        seen_RS = keys_S[None, :] < lengths_R[:, None]
        if WINDOW > 0:
            seen_RS &= keys_S[None, :] >= lengths_R[:, None] - WINDOW
        score_RS = tl.where(seen_RS, score_RS, -float("inf"))
        new_R = tl.maximum(max_R, tl.max(score_RS, axis=1))
        shift_R = tl.where(new_R == -float("inf"), 0.0, new_R)
        p_RS = tl.exp2(score_RS - shift_R[:, None])
        fade_R = tl.exp2(max_R - shift_R)
        sum_R = tl.fma(sum_R, fade_R, tl.sum(p_RS, axis=1))
        out_Rd = dot(narrow(p_RS, v_Sd.dtype), v_Sd, out_Rd * fade_R[:, None])
        max_R = new_R
    return max_R, sum_R, out_Rd


@triton.jit
def _attend_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    table_ptr,
    lengths_ptr,
    out_ptr,
    part_ptr,
    stats_ptr,
    B,
    M,
    splits,
    first_split,
    scale,
    H: tl.constexpr,
    J: tl.constexpr,
    N: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WINDOW: tl.constexpr,
    SEQUENCES: tl.constexpr,
    FUSED: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """The heads of SEQUENCES sequences, which share their pages where there are several, on one key/value head.

    FUSED: over all splits, into `out`; else over the split of program_id(2), into `part` and `stats`.
    """
    G: tl.constexpr = H // J
    first_sequence, head = tl.program_id(0) * SEQUENCES, tl.program_id(1)
    row_R = tl.arange(0, BLOCK_R)
    sequence_R = first_sequence + row_R // G
    mine_R = (row_R < SEQUENCES * G) & (sequence_R < B)
    lengths_R = tl.load(lengths_ptr + sequence_R, mask=mine_R, other=0)
    longest = tl.max(lengths_R, axis=0)
    first_seen = 0
    if WINDOW > 0:
        # rows that are none, or only padding, would begin at 0
        first_seen = tl.maximum(tl.min(tl.where(lengths_R > 0, lengths_R, longest), axis=0) - WINDOW, 0)
    query_R = (sequence_R * H + head * G + row_R % G).to(tl.int64)
    columns_d = tl.arange(0, BLOCK_D)
    mask_Rd = mine_R[:, None] & (columns_d < HEAD_DIM)[None, :]
    q_Rd = tl.load(q_ptr + query_R[:, None] * HEAD_DIM + columns_d[None, :], mask=mask_Rd, other=0.0)
    pages_ptr = table_ptr + first_sequence.to(tl.int64) * M
    seen_block = first_seen // BLOCK_S * BLOCK_S
    if FUSED:
        max_R = tl.full((BLOCK_R,), -float("inf"), tl.float32)
        sum_R = tl.zeros((BLOCK_R,), tl.float32)
        out_Rd = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
        for split in range(first_seen // SPLIT, tl.cdiv(longest, SPLIT)):
            begin, end = tl.maximum(split * SPLIT, seen_block), tl.minimum(split * SPLIT + SPLIT, longest)
            more_max_R, more_sum_R, more_Rd = _one_split(
                q_Rd, k_ptr, v_ptr, pages_ptr, head, begin, end, lengths_R, scale, J, N, HEAD_DIM, WINDOW, BLOCK_S
            )
            max_R, sum_R, out_Rd = _fold(max_R, sum_R, out_Rd, more_max_R, more_sum_R, more_Rd)
        out_Rd = out_Rd / tl.where(sum_R == 0.0, 1.0, sum_R)[:, None]
        tl.store(out_ptr + query_R[:, None] * HEAD_DIM + columns_d[None, :], narrow(out_Rd, out_ptr.dtype.element_ty), mask=mask_Rd)
    else:
        split = first_split + tl.program_id(2)
        begin, end = tl.maximum(split * SPLIT, seen_block), tl.minimum(split * SPLIT + SPLIT, longest)
        if begin < end:
            max_R, sum_R, out_Rd = _one_split(
                q_Rd, k_ptr, v_ptr, pages_ptr, head, begin, end, lengths_R, scale, J, N, HEAD_DIM, WINDOW, BLOCK_S
            )
            part_R = query_R * splits + split
            tl.store(part_ptr + part_R[:, None] * HEAD_DIM + columns_d[None, :], out_Rd, mask=mask_Rd)
            tl.store(stats_ptr + part_R * 2, max_R, mask=mine_R)
            tl.store(stats_ptr + part_R * 2 + 1, sum_R, mask=mine_R)


@triton.jit
def _merge_kernel(
    part_ptr,
    stats_ptr,
    lengths_ptr,
    out_ptr,
    splits,
    H: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WINDOW: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One head of one sequence: its splits, in their order."""
    query = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths_ptr + query // H)
    first_seen = 0
    if WINDOW > 0:
        first_seen = tl.maximum(length - WINDOW, 0)
    columns_d = tl.arange(0, BLOCK_D)
    inside_d = columns_d < HEAD_DIM
    max_1 = tl.full((1,), -float("inf"), tl.float32)
    sum_1 = tl.zeros((1,), tl.float32)
    out_1d = tl.zeros((1, BLOCK_D), tl.float32)
    one_1 = tl.arange(0, 1)
    for split in range(first_seen // SPLIT, tl.cdiv(length, SPLIT)):
        part = query * splits + split
        more_1d = tl.load(part_ptr + part * HEAD_DIM + columns_d, mask=inside_d, other=0.0)[None, :]
        more_max_1, more_sum_1 = tl.load(stats_ptr + part * 2 + one_1), tl.load(stats_ptr + part * 2 + 1 + one_1)
        max_1, sum_1, out_1d = _fold(max_1, sum_1, out_1d, more_max_1, more_sum_1, more_1d)
    out_1d = out_1d / tl.where(sum_1 == 0.0, 1.0, sum_1)[:, None]
    tl.store(out_ptr + query * HEAD_DIM + columns_d[None, :], narrow(out_1d, out_ptr.dtype.element_ty), mask=inside_d[None, :])


def paged_attention(
    q_BHd: Tensor,
    k_pages_PJNd: Tensor,
    v_pages_PJNd: Tensor,
    page_table_BM: Tensor,
    lengths_B: Tensor,
    window: int | None = None,
    shared_tokens: int = 0,
    scale: float | None = None,
    fused: bool | None = None,
    split: int = SPLIT,
    block_s: int = BLOCK_S,
) -> Tensor:
    """Attention of each sequence's newest token to its first `lengths_B` keys, itself among them; the last `window` where given.

    Scores are multiplied by `scale`, 1 / sqrt(d) where it is None.
    `page_table_BM` and `lengths_B` are int32 on the device. The first `shared_tokens` tokens of all sequences lie on the same pages.
    `fused` is for tests; None asks the device. `split` and `block_s` fix the order of the sums: never vary them within a run.
    Returns [B, H, d]; a sequence of length 0 gives zeros.
    """
    (B, H, d), (_, J, N, _), M = q_BHd.shape, k_pages_PJNd.shape, page_table_BM.shape[1]
    G = H // J
    rows = max(ROWS, triton.next_power_of_2(G))
    together = max(SHARED_ROWS, rows) // G
    splits, shared = triton.cdiv(M * N, split), shared_tokens // split if B > 1 else 0
    if fused is None:
        fused = shared == 0 and num_programs(q_BHd.device, 2) <= B * J
    assert not (fused and shared), "a shared prefix is not computed by the fused kernel"
    out_BHd = torch.empty_like(q_BHd, memory_format=torch.contiguous_format)
    sizes = {"H": H, "HEAD_DIM": d, "WINDOW": window or 0, "SPLIT": split, "BLOCK_D": max(16, triton.next_power_of_2(d))}
    inputs = (q_BHd.contiguous(), k_pages_PJNd, v_pages_PJNd, page_table_BM, lengths_B)
    scale = (d**-0.5 if scale is None else scale) * LOG2_E
    more = {**sizes, "J": J, "N": N, "BLOCK_S": block_s, "num_stages": NUM_STAGES}
    if fused:
        _attend_kernel[(B, J, 1)](*inputs, out_BHd, None, None, B, M, splits, 0, scale, **more, SEQUENCES=1, FUSED=True, BLOCK_R=rows)
        return out_BHd
    part = torch.empty(B * H, splits, d, dtype=torch.float32, device=q_BHd.device)
    stats = torch.empty(B * H, splits, 2, dtype=torch.float32, device=q_BHd.device)
    for first, count, sequences, block_r in ((0, shared, together, max(SHARED_ROWS, rows)), (shared, splits - shared, 1, rows)):
        if count:
            arguments = (*inputs, out_BHd, part, stats, B, M, splits, first, scale)
            grid = (triton.cdiv(B, sequences), J, count)
            _attend_kernel[grid](*arguments, **more, SEQUENCES=sequences, FUSED=False, BLOCK_R=block_r)
    _merge_kernel[(B * H,)](part, stats, lengths_B, out_BHd, splits, **sizes)
    return out_BHd


def append(k_pages_PJNd: Tensor, v_pages_PJNd: Tensor, page_table_BM: Tensor, positions_B: Tensor, k_BJd: Tensor, v_BJd: Tensor) -> None:
    """Put each sequence's newest key and value on the page of its position (int64); in place, without a host synchronisation."""
    N = k_pages_PJNd.shape[2]
    pages_B = page_table_BM.gather(1, (positions_B // N)[:, None])[:, 0].long()
    k_pages_PJNd[pages_B, :, positions_B % N] = k_BJd
    v_pages_PJNd[pages_B, :, positions_B % N] = v_BJd
