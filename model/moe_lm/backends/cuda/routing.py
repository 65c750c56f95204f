"""Routing: router logits to expert weights, and the plan by which the grouped GEMM walks the experts' tokens.

T tokens, E routed experts, K experts a token; A always-on experts (slices of the shared one) that every token visits;
X = E + A experts and C = K + A slots a token in all; R = T C rows, sorted by expert; slot t C + k is choice k of token t.

Floors for E = 60, K = 4, A = 4, bf16: bytes 2 T E read, 8 T K + 4 T C written, 184 T in all (0.5 us at T = 8192 and 3 TB/s);
FLOPs about 5 T E. Both are negligible beside a launch of 2 us, so the number of launches counts: one up to ONE_BLOCK tokens, else two.

The host does not read the result: there is no synchronisation and no size that depends on data, so a CUDA graph can contain it.
Rows of one expert are in the order of their tokens: no atomics, the same plan in every run.
"""

from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

ONE_BLOCK = 128  # tokens that a single program routes
BLOCK_T = 64  # tokens a program where there are more
BLOCK_W = 64  # tiles of the work list that a program writes at a time


class Plan(NamedTuple):
    """Which rows belong to which expert, and the work list. All int32, on the device.

    `slots` [R] the slot of each sorted row; `starts` [X + 1] the first row of each expert, then R; `tile_experts` and `tile_rows`
    [W] expert and first row of each tile of `block_n` rows, W an upper bound; `num_tiles` [2] the tiles in use: all, then
    those of routed experts, which come first.
    """

    slots: Tensor
    starts: Tensor
    tile_experts: Tensor
    tile_rows: Tensor
    num_tiles: Tensor
    block_n: int


@triton.jit
def _choose(logits_ptr, weights_ptr, ids_ptr, tokens_T, T, E: tl.constexpr, K: tl.constexpr, X_POW2: tl.constexpr, NORM: tl.constexpr):
    """Softmax, top K and the outputs for one block of tokens. Returns [T, X_POW2]: which choice of the token an expert is, or -1."""
    experts_X = tl.arange(0, X_POW2)
    inside_TX = (tokens_T < T)[:, None] & (experts_X < E)[None, :]
    logits_TX = tl.load(logits_ptr + tokens_T[:, None] * E + experts_X[None, :], mask=inside_TX, other=-float("inf")).to(tl.float32)
    # rows beyond T hold no number: 0 keeps them from NaN
    top_T = tl.where(tokens_T < T, tl.max(logits_TX, axis=1), 0.0)
    exp_TX = tl.exp(logits_TX - top_T[:, None])
    sum_T = tl.where(tokens_T < T, tl.sum(exp_TX, axis=1), 1.0)
    probs_TX = exp_TX / sum_T[:, None]
    # a token whose logits hold no number gets K experts all the same: its own result is NaN, its neighbours' rows stay in place
    left_TX = tl.where(inside_TX, tl.where(probs_TX == probs_TX, probs_TX, 0.0), -1.0)
    choice_TX = tl.full(left_TX.shape, -1, tl.int32)
    total_T = tl.zeros_like(sum_T)
    for k in tl.static_range(K):
        best_T = tl.max(left_TX, axis=1)
        # the lowest index among equals
        picked_TX = experts_X[None, :] == tl.min(tl.where(left_TX == best_T[:, None], experts_X[None, :], X_POW2), axis=1)[:, None]
        choice_TX = tl.where(picked_TX, k, choice_TX)
        left_TX = tl.where(picked_TX, -1.0, left_TX)
        total_T += best_T
    for k in tl.static_range(K):
        weight_T = tl.sum(tl.where(choice_TX == k, probs_TX, 0.0), axis=1)
        if NORM:
            weight_T = weight_T / total_T
        id_T = tl.sum(tl.where(choice_TX == k, experts_X[None, :], 0), axis=1)
        tl.store(weights_ptr + tokens_T * K + k, weight_T, mask=tokens_T < T)
        tl.store(ids_ptr + tokens_T * K + k, id_T, mask=tokens_T < T)
    return tl.where(inside_TX, choice_TX, -1)


@triton.jit
def _chosen(ids_ptr, tokens_T, T, K: tl.constexpr, X_POW2: tl.constexpr):
    """What `_choose` returns, from ids that are known. [T, X_POW2]"""
    experts_X = tl.arange(0, X_POW2)
    choice_TX = tl.full((tokens_T.shape[0], X_POW2), -1, tl.int32)
    for k in tl.static_range(K):
        id_T = tl.load(ids_ptr + tokens_T * K + k, mask=tokens_T < T, other=-1)
        choice_TX = tl.where(experts_X[None, :] == id_T[:, None], k, choice_TX)
    return choice_TX


@triton.jit
def _with_always_on(choice_TX, tokens_T, T, E: tl.constexpr, K: tl.constexpr, A: tl.constexpr, X_POW2: tl.constexpr):
    experts_X = tl.arange(0, X_POW2)
    always_TX = (tokens_T < T)[:, None] & ((experts_X >= E) & (experts_X < E + A))[None, :]
    return tl.where(always_TX, (experts_X - E + K)[None, :], choice_TX)


@triton.jit
def _place(choice_TX, tokens_T, base_X, slots_ptr, C: tl.constexpr):
    """Write the slots of one block of tokens, each expert's from row `base_X` on, in the order of the tokens."""
    member_TX = (choice_TX >= 0).to(tl.int32)
    row_TX = base_X[None, :] + tl.cumsum(member_TX, axis=0) - member_TX
    tl.store(slots_ptr + row_TX, tokens_T[:, None] * C + choice_TX, mask=choice_TX >= 0)


@triton.jit
def _list_work(
    counts_X,
    starts_ptr,
    tile_experts_ptr,
    tile_rows_ptr,
    num_tiles_ptr,
    E: tl.constexpr,
    X: tl.constexpr,
    X_POW2: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Write starts and number of tiles (program 0), and this program's share of the work list."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    experts_X = tl.arange(0, X_POW2)
    starts_X = tl.cumsum(counts_X, axis=0) - counts_X
    tiles_X = (counts_X + BLOCK_N - 1) // BLOCK_N
    tile_ends_X = tl.cumsum(tiles_X, axis=0)
    num_tiles = tl.sum(tiles_X, axis=0)
    if program == 0:
        tl.store(starts_ptr + experts_X, starts_X, mask=experts_X < X)
        tl.store(starts_ptr + X, tl.sum(counts_X, axis=0))
        tl.store(num_tiles_ptr, num_tiles)
        tl.store(num_tiles_ptr + 1, tl.sum(tl.where(experts_X < E, tiles_X, 0), axis=0))
    for begin in range(program * BLOCK_W, num_tiles, programs * BLOCK_W):
        tile_W = begin + tl.arange(0, BLOCK_W)
        expert_W = tl.sum((tile_ends_X[None, :] <= tile_W[:, None]).to(tl.int32), axis=1)
        mine_WX = experts_X[None, :] == expert_W[:, None]
        # first row of the tile: the expert's first, and a block for each of its tiles before this one
        first_W = tl.sum(tl.where(mine_WX, (starts_X - (tile_ends_X - tiles_X) * BLOCK_N)[None, :], 0), axis=1)
        tl.store(tile_experts_ptr + tile_W, expert_W, mask=tile_W < num_tiles)
        tl.store(tile_rows_ptr + tile_W, first_W + tile_W * BLOCK_N, mask=tile_W < num_tiles)


@triton.jit
def _count_kernel(
    logits_ptr,
    weights_ptr,
    ids_ptr,
    counts_ptr,
    T,
    E: tl.constexpr,
    K: tl.constexpr,
    A: tl.constexpr,
    X_POW2: tl.constexpr,
    NORM: tl.constexpr,
    ROUTED: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Route a block of tokens (unless ROUTED: then the ids are given) and count each expert's tokens in it."""
    tokens_T = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    if ROUTED:
        choice_TX = _chosen(ids_ptr, tokens_T, T, K, X_POW2)
    else:
        choice_TX = _choose(logits_ptr, weights_ptr, ids_ptr, tokens_T, T, E, K, X_POW2, NORM)
    choice_TX = _with_always_on(choice_TX, tokens_T, T, E, K, A, X_POW2)
    counts_X = tl.sum((choice_TX >= 0).to(tl.int32), axis=0)
    tl.store(counts_ptr + tl.program_id(0) * X_POW2 + tl.arange(0, X_POW2), counts_X)


@triton.jit
def _place_kernel(
    ids_ptr,
    counts_ptr,
    slots_ptr,
    starts_ptr,
    tile_experts_ptr,
    tile_rows_ptr,
    num_tiles_ptr,
    T,
    E: tl.constexpr,
    K: tl.constexpr,
    A: tl.constexpr,
    X_POW2: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Place a block of tokens behind those of the blocks before it."""
    block, blocks = tl.program_id(0), tl.num_programs(0)
    experts_X = tl.arange(0, X_POW2)
    counts_X = tl.zeros((X_POW2,), tl.int32)
    before_X = tl.zeros((X_POW2,), tl.int32)
    for begin in range(0, blocks, BLOCK_W):
        other_W = begin + tl.arange(0, BLOCK_W)
        pointers_WX = counts_ptr + other_W[:, None] * X_POW2 + experts_X[None, :]
        counts_WX = tl.load(pointers_WX, mask=(other_W < blocks)[:, None], other=0)
        counts_X += tl.sum(counts_WX, axis=0)
        before_X += tl.sum(tl.where((other_W < block)[:, None], counts_WX, 0), axis=0)
    tokens_T = block * BLOCK_T + tl.arange(0, BLOCK_T)
    choice_TX = _with_always_on(_chosen(ids_ptr, tokens_T, T, K, X_POW2), tokens_T, T, E, K, A, X_POW2)
    _place(choice_TX, tokens_T, tl.cumsum(counts_X, axis=0) - counts_X + before_X, slots_ptr, K + A)
    _list_work(counts_X, starts_ptr, tile_experts_ptr, tile_rows_ptr, num_tiles_ptr, E, E + A, X_POW2, BLOCK_N, BLOCK_W)


@triton.jit
def _route_kernel(
    logits_ptr,
    weights_ptr,
    ids_ptr,
    slots_ptr,
    starts_ptr,
    tile_experts_ptr,
    tile_rows_ptr,
    num_tiles_ptr,
    T,
    E: tl.constexpr,
    K: tl.constexpr,
    A: tl.constexpr,
    X_POW2: tl.constexpr,
    NORM: tl.constexpr,
    ROUTED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Both steps in one program, for few tokens."""
    tokens_T = tl.arange(0, BLOCK_T)
    if ROUTED:
        choice_TX = _chosen(ids_ptr, tokens_T, T, K, X_POW2)
    else:
        choice_TX = _choose(logits_ptr, weights_ptr, ids_ptr, tokens_T, T, E, K, X_POW2, NORM)
    choice_TX = _with_always_on(choice_TX, tokens_T, T, E, K, A, X_POW2)
    counts_X = tl.sum((choice_TX >= 0).to(tl.int32), axis=0)
    _place(choice_TX, tokens_T, tl.cumsum(counts_X, axis=0) - counts_X, slots_ptr, K + A)
    _list_work(counts_X, starts_ptr, tile_experts_ptr, tile_rows_ptr, num_tiles_ptr, E, E + A, X_POW2, BLOCK_N, BLOCK_W)


def route(
    router_logits_TE: Tensor, num_experts_per_tok: int, norm_topk_prob: bool, block_n: int, always_on: int = 0
) -> tuple[Tensor, Tensor, Plan]:
    """Weights float32 and ids int32, [T, K] both, as `moe_lm.model.route` gives them, and the plan for tiles of `block_n` rows."""
    T, E = router_logits_TE.shape
    weights_TK = torch.empty(T, num_experts_per_tok, dtype=torch.float32, device=router_logits_TE.device)
    ids_TK = torch.empty(T, num_experts_per_tok, dtype=torch.int32, device=router_logits_TE.device)
    return weights_TK, ids_TK, _launch(router_logits_TE.contiguous(), weights_TK, ids_TK, E, norm_topk_prob, block_n, always_on)


def plan(topk_ids_TK: Tensor, num_experts: int, block_n: int, always_on: int = 0) -> Plan:
    """The plan for ids that are known, [T, K]; the K experts of a token differ."""
    return _launch(None, None, topk_ids_TK.to(torch.int32).contiguous(), num_experts, False, block_n, always_on)


def _launch(logits_TE: Tensor | None, weights_TK: Tensor | None, ids_TK: Tensor, E: int, norm: bool, block_n: int, A: int) -> Plan:
    T, K = ids_TK.shape
    empty = partial(torch.empty, dtype=torch.int32, device=ids_TK.device)
    # an expert with tokens has at most one tile that is not full
    max_tiles = T * K // block_n + min(E, T * K) + A * triton.cdiv(T, block_n)
    made = Plan(empty(T * (K + A)), empty(E + A + 1), empty(max_tiles), empty(max_tiles), empty(2), block_n)
    sizes = {"E": E, "K": K, "A": A, "X_POW2": triton.next_power_of_2(E + A)}
    choose = {"NORM": norm, "ROUTED": logits_TE is None}
    listing = {"BLOCK_N": block_n, "BLOCK_W": BLOCK_W}
    if T <= ONE_BLOCK:
        block = max(16, triton.next_power_of_2(T))
        _route_kernel[(1,)](logits_TE, weights_TK, ids_TK, *made[:5], T, **sizes, **choose, BLOCK_T=block, **listing, num_warps=8)
        return made
    blocks = triton.cdiv(T, BLOCK_T)
    counts_BX = empty(blocks, sizes["X_POW2"])
    _count_kernel[(blocks,)](logits_TE, weights_TK, ids_TK, counts_BX, T, **sizes, **choose, BLOCK_T=BLOCK_T)
    _place_kernel[(blocks,)](ids_TK, counts_BX, *made[:5], T, **sizes, BLOCK_T=BLOCK_T, **listing)
    return made
