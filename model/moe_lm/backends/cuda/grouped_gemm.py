"""The experts' products: gate and up with SwiGLU behind them, then down; each expert over the rows that `routing.Plan` gives it.

T tokens, D hidden, F expert hidden, E experts; X = E + A with the always-on slices; R rows, one for each (token, expert) pair.

Operands are swapped: an expert's weight rows are the M side of the product, its tokens the N side in tiles of 16 to 256. So few
tokens waste little, and every tile sums over K in one order: blocks of `block_k`, each in the tensor core's steps of 16. A row's
result depends neither on the number of rows nor on its place among them.

Gate and up rows f of one expert meet in one program, as two products over the same tokens. Rows interleaved in memory would give
the same product and ask for a second copy of the weights, or for a layout that the reference cannot read.

Floors of both products, bf16, Qwen1.5-MoE-A2.7B (D 2048, F 1408, 17.3 MB an expert): bytes 6 D F for each expert visited, FLOPs
6 D F a row. On an H100 (3.0 TB/s, 790 TFLOP/s), K = 4, us a layer for T tokens, by whichever is larger:
T = 1: 23, 8: 147, 32: 308, 128 to 512: 350, 2048: 367, 8192: 718. The shared expert adds 23 (its 69 MB), and 718 at 8192 (4 slots more).
"""

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lm.backends.cuda.launch import by_descriptor, describe, dot, narrow, num_programs
from moe_lm.backends.cuda.routing import Plan
from moe_lm.backends.cuda.tuning import Tiles

SHARED_ROWS = 128  # of a tile of `shared_down`, whose running sum takes as many registers as its product: 256 would spill


@triton.jit
def _weights(
    w, expert, row0, k0, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, TMA: tl.constexpr
):
    """A tile [BLOCK_M, BLOCK_K] of w [X, ROWS, COLUMNS]; zero beyond the matrix."""
    if TMA:
        tile_MK = w.load([expert, row0, k0]).reshape(BLOCK_M, BLOCK_K)
    else:
        rows_M, columns_K = row0 + tl.arange(0, BLOCK_M), k0 + tl.arange(0, BLOCK_K)
        first = (tl.full((), 0, tl.int64) + expert) * (ROWS * COLUMNS)  # all experts' weights may exceed 2^31
        pointers_MK = w + first + rows_M[:, None] * COLUMNS + columns_K[None, :]
        tile_MK = tl.load(pointers_MK, mask=(rows_M < ROWS)[:, None] & (columns_K < COLUMNS)[None, :], other=0.0)
    return tile_MK


@triton.jit
def _up_kernel(
    x_ptr,
    w,
    act_ptr,
    slots_ptr,
    starts_ptr,
    tile_experts_ptr,
    tile_rows_ptr,
    num_tiles_ptr,
    D: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TMA: tl.constexpr,
):
    """act[row] = silu(gate(x)) * up(x), for the token of each sorted row."""
    f_tiles: tl.constexpr = (F + BLOCK_F - 1) // BLOCK_F
    # the tiles of one expert's weights run side by side, so that what two token tiles share is read from the L2 cache
    for work in range(tl.program_id(0), tl.load(num_tiles_ptr) * f_tiles, tl.num_programs(0)):
        tile, f0 = work // f_tiles, work % f_tiles * BLOCK_F
        expert = tl.load(tile_experts_ptr + tile)
        rows_N = tl.load(tile_rows_ptr + tile) + tl.arange(0, BLOCK_N)
        mine_N = rows_N < tl.load(starts_ptr + expert + 1)
        # rows that belong to the next expert read token 0, and are not stored
        tokens_N = tl.load(slots_ptr + rows_N, mask=mine_N, other=0) // C
        gate_FN = tl.zeros((BLOCK_F, BLOCK_N), tl.float32)
        up_FN = tl.zeros((BLOCK_F, BLOCK_N), tl.float32)
        for k0 in range(0, D, BLOCK_K):
            columns_K = k0 + tl.arange(0, BLOCK_K)
            pointers_NK = x_ptr + tokens_N[:, None].to(tl.int64) * D + columns_K[None, :]
            if D % BLOCK_K == 0:
                x_NK = tl.load(pointers_NK)
            else:
                x_NK = tl.load(pointers_NK, mask=(columns_K < D)[None, :], other=0.0)
            gate_FN = dot(_weights(w, expert, f0, k0, 2 * F, D, BLOCK_F, BLOCK_K, TMA), tl.trans(x_NK), gate_FN)
            up_FN = dot(_weights(w, expert, F + f0, k0, 2 * F, D, BLOCK_F, BLOCK_K, TMA), tl.trans(x_NK), up_FN)
        act_FN = gate_FN * tl.sigmoid(gate_FN) * up_FN
        rows_F = f0 + tl.arange(0, BLOCK_F)
        out_FN = act_ptr + rows_N[None, :].to(tl.int64) * F + rows_F[:, None]
        tl.store(out_FN, narrow(act_FN, act_ptr.dtype.element_ty), mask=(rows_F < F)[:, None] & mine_N[None, :])


@triton.jit
def _down_tile(
    act,
    w,
    expert,
    row0,
    end,
    d0,
    D: tl.constexpr,
    F: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TMA: tl.constexpr,
):
    """down[expert, d0:] @ act[row0:].T, [BLOCK_D, BLOCK_N] in float32; columns from row `end` on mean nothing."""
    acc_DN = tl.zeros((BLOCK_D, BLOCK_N), tl.float32)
    for k0 in range(0, F, BLOCK_K):
        if TMA:
            act_NK = act.load([row0, k0])
        else:
            rows_N, columns_K = row0 + tl.arange(0, BLOCK_N), k0 + tl.arange(0, BLOCK_K)
            mask_NK = (rows_N < end)[:, None] & (columns_K < F)[None, :]
            act_NK = tl.load(act + rows_N[:, None].to(tl.int64) * F + columns_K[None, :], mask=mask_NK, other=0.0)
        acc_DN = dot(_weights(w, expert, d0, k0, D, F, BLOCK_D, BLOCK_K, TMA), tl.trans(act_NK), acc_DN)
    return acc_DN


@triton.jit
def _down_kernel(
    act,
    w,
    out_ptr,
    slots_ptr,
    starts_ptr,
    tile_experts_ptr,
    tile_rows_ptr,
    num_tiles_ptr,
    D: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
    OUT_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TMA: tl.constexpr,
):
    """out[token, choice] = down(act[row]), for the first OUT_C choices of each token."""
    d_tiles: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    # of C slots a token all tiles count, of fewer only those of routed experts
    num_tiles = tl.load(num_tiles_ptr + (1 if OUT_C < C else 0))
    for work in range(tl.program_id(0), num_tiles * d_tiles, tl.num_programs(0)):
        tile, d0 = work // d_tiles, work % d_tiles * BLOCK_D
        expert = tl.load(tile_experts_ptr + tile)
        row0 = tl.load(tile_rows_ptr + tile)
        end = tl.load(starts_ptr + expert + 1)
        acc_DN = _down_tile(act, w, expert, row0, end, d0, D, F, BLOCK_D, BLOCK_N, BLOCK_K, TMA)
        rows_N = row0 + tl.arange(0, BLOCK_N)
        slots_N = tl.load(slots_ptr + rows_N, mask=rows_N < end, other=0)
        place_N = slots_N // C * OUT_C + slots_N % C
        rows_D = d0 + tl.arange(0, BLOCK_D)
        out_DN = out_ptr + place_N[None, :].to(tl.int64) * D + rows_D[:, None]
        tl.store(out_DN, narrow(acc_DN, out_ptr.dtype.element_ty), mask=(rows_D < D)[:, None] & (rows_N < end)[None, :])


@triton.jit
def _shared_down_kernel(
    act,
    w,
    out_ptr,
    first_row,
    T,
    E: tl.constexpr,
    A: tl.constexpr,
    D: tl.constexpr,
    F: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TMA: tl.constexpr,
):
    """out[token] = the sum over the always-on slices of down(act), each rounded as if it had been stored."""
    d_tiles: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    for work in range(tl.program_id(0), tl.cdiv(T, BLOCK_N) * d_tiles, tl.num_programs(0)):
        token0, d0 = work // d_tiles * BLOCK_N, work % d_tiles * BLOCK_D
        sum_DN = tl.zeros((BLOCK_D, BLOCK_N), tl.float32)
        for a in range(A):
            row0 = first_row + a * T + token0
            end = first_row + (a + 1) * T
            acc_DN = _down_tile(act, w, E + a, row0, end, d0, D, F, BLOCK_D, BLOCK_N, BLOCK_K, TMA)
            sum_DN += narrow(acc_DN, out_ptr.dtype.element_ty).to(tl.float32)
        tokens_N, rows_D = token0 + tl.arange(0, BLOCK_N), d0 + tl.arange(0, BLOCK_D)
        out_DN = out_ptr + tokens_N[None, :].to(tl.int64) * D + rows_D[:, None]
        tl.store(out_DN, narrow(sum_DN, out_ptr.dtype.element_ty), mask=(rows_D < D)[:, None] & (tokens_N < T)[None, :])


def up(x_TD: Tensor, gate_up_XGD: Tensor, plan: Plan, tiles: Tiles, block_k: int, tma: bool | None = None) -> Tensor:
    """silu(gate) * up of every sorted row, [R, F], for x [T, D] and weights [X, 2F, D], gate rows first.

    `tma`: load weights by tensor descriptor; None asks `by_descriptor`.
    """
    T, D = x_TD.shape
    F, R = gate_up_XGD.shape[1] // 2, len(plan.slots)
    act_RF = torch.empty(R, F, dtype=x_TD.dtype, device=x_TD.device)
    half = tiles.block_m // 2
    w = describe(gate_up_XGD, [1, half, block_k], by_descriptor(x_TD) if tma is None else tma)
    sizes = {"D": D, "F": F, "C": R // T, "BLOCK_F": half, "BLOCK_N": plan.block_n, "BLOCK_K": block_k, "TMA": w is not gate_up_XGD}
    grid = (num_programs(x_TD.device, tiles.programs_per_multiprocessor),)
    _up_kernel[grid](x_TD.contiguous(), w, act_RF, *plan[:5], **sizes, num_warps=tiles.num_warps, num_stages=tiles.num_stages)
    return act_RF


def down(
    act_RF: Tensor, down_XDF: Tensor, plan: Plan, num_slots: int, T: int, tiles: Tiles, block_k: int, tma: bool | None = None
) -> Tensor:
    """down(act) of every sorted row, put back as [T, num_slots, D]: all C slots of a token, or its K routed ones alone."""
    R, F = act_RF.shape
    D = down_XDF.shape[1]
    out_TCD = torch.empty(T, num_slots, D, dtype=act_RF.dtype, device=act_RF.device)
    act, w, tma = _describe_both(act_RF, down_XDF, plan.block_n, tiles, block_k, tma)
    sizes = {"D": D, "F": F, "C": R // T, "OUT_C": num_slots}
    blocks = {"BLOCK_D": tiles.block_m, "BLOCK_N": plan.block_n, "BLOCK_K": block_k, "TMA": tma}
    grid = (num_programs(act_RF.device, tiles.programs_per_multiprocessor),)
    _down_kernel[grid](act, w, out_TCD, *plan[:5], **sizes, **blocks, num_warps=tiles.num_warps, num_stages=tiles.num_stages)
    return out_TCD


def shared_down(
    act_RF: Tensor, down_XDF: Tensor, num_experts: int, T: int, block_n: int, tiles: Tiles, block_k: int, tma: bool | None = None
) -> Tensor:
    """The shared expert's output [T, D] from the last A T rows of `act_RF`: for many tokens, whose slices would not be worth storing."""
    (R, F), (X, D, _) = act_RF.shape, down_XDF.shape
    A = X - num_experts
    tiles = replace(tiles, block_m=min(tiles.block_m, SHARED_ROWS))
    out_TD = torch.empty(T, D, dtype=act_RF.dtype, device=act_RF.device)
    act, w, tma = _describe_both(act_RF, down_XDF, block_n, tiles, block_k, tma)
    blocks = {"BLOCK_D": tiles.block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "TMA": tma}
    grid = (num_programs(act_RF.device, tiles.programs_per_multiprocessor),)
    launch = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
    _shared_down_kernel[grid](act, w, out_TD, R - A * T, T, E=num_experts, A=A, D=D, F=F, **blocks, **launch)
    return out_TD


def _describe_both(
    act_RF: Tensor, down_XDF: Tensor, block_n: int, tiles: Tiles, block_k: int, tma: bool | None
) -> tuple[object, object, bool]:
    """Activations and weights by tensor descriptor, or both by pointer."""
    wanted = by_descriptor(act_RF) if tma is None else tma
    act = describe(act_RF, [block_n, block_k], wanted)
    w = describe(down_XDF, [1, tiles.block_m, block_k], wanted)
    if act is act_RF or w is down_XDF:
        return act_RF, down_XDF, False
    return act, w, True
