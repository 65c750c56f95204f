"""The experts' products with weights of four bits: codes become the activations' precision in registers, on their way to the product.

Letters as in `grouped_gemm`, whose tiles, work lists and order of sums these kernels share: a weight is (code - zero point) * scale in
float32, rounded once to the activations' precision, and so the very weight that `grouped_gemm` reads where it is expanded beforehand.

A byte holds two codes of one row that lie HALF inputs apart: the low bits of a block of 2 HALF inputs are its first half, the high bits
its second. Each half is a tile of weights without any exchange between lanes, and one product. Groups of inputs are whole halves, so that
each half has one scale a row. K goes in blocks of 2 HALF whatever the tiles, so no row's bits depend on the number of rows.

Bytes, Qwen1.5-MoE-A2.7B, groups of 128: 4.5 MB an expert in place of 17.3 (a float16 scale and a zero point of a byte for 128 inputs).
Floors on an H100 (3.0 TB/s), us a layer for T tokens: T = 1: 6, 8: 38, 32: 80, 128 to 512: 91; from about 512 on, as in `grouped_gemm`,
the tensor cores decide. Four instructions a weight expand it (mask and magic number, two float32 operations, half a conversion), 2 to the
byte: reckoned, not measured, their time at 1 token is about that of the bytes.

It has never run on a GPU: it is tested under Triton's interpreter, and compiled for compute capability 9.0. No checkpoint is bound to it.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from moe_lm.backends.cuda import routing
from moe_lm.backends.cuda.combine import combine
from moe_lm.backends.cuda.launch import dot, narrow, num_programs
from moe_lm.backends.cuda.routing import Plan
from moe_lm.backends.cuda.tuning import Tiles, Tuning, tuning
from moe_lm.quant.grouped import GroupedWeight

HALF = 32  # inputs of which each has its code in one half of the bytes; a group of a GroupedWeight is a multiple of it
MAGIC_BITS = tl.constexpr(0x4B000000)  # the float32 number 2^23: a small integer in its lowest bits is added to it
MAGIC = tl.constexpr(8388608.0)


@dataclass(frozen=True, slots=True, eq=False)
class Int4Matrices:
    """X matrices [O, K] as the kernels read them, made by `pack`: `codes` uint8 [X, O, B], B the K / 2 bytes of a row or, for an odd number
    of halves, HALF / 2 more; `scales`, float16 or float32, and `zeros`, uint8, are [X, O, G] for G groups of `group_size` inputs.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    inputs: int
    group_size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, O, K)"""
        return *self.codes.shape[:2], self.inputs

    def __len__(self) -> int:
        return len(self.codes)


def pack(weight: GroupedWeight) -> Int4Matrices:
    """The same weights with their codes in halves, and in float16 the scales that it holds exactly (all of GPTQ's and AWQ's)."""
    codes = torch.stack((weight.codes & 15, weight.codes >> 4), dim=-1).flatten(2)
    first, second = F.pad(codes, (0, -weight.inputs % (2 * HALF))).unflatten(2, (-1, 2, HALF)).unbind(3)
    scales = weight.scales.half()
    if not torch.equal(scales.float(), weight.scales):
        scales = weight.scales
    packed = (first | second << 4).flatten(2).contiguous()
    return Int4Matrices(packed, scales.contiguous(), weight.zeros.contiguous(), weight.inputs, weight.group_size)


@triton.jit
def _of_half(scales_ptr, zeros_ptr, first, rows_M, inside_M, k, G: tl.constexpr, GROUP: tl.constexpr):
    """Scales, float32, and 2^23 plus zero points of the group that input `k` is in, a number a row."""
    place_M = first + rows_M * G + tl.minimum(k // GROUP, G - 1)  # what lies beyond the inputs has no group
    scales_M = tl.load(scales_ptr + place_M, mask=inside_M, other=0.0).to(tl.float32)
    return scales_M, tl.load(zeros_ptr + place_M, mask=inside_M, other=0).to(tl.float32) + MAGIC


@triton.jit
def _expanded(codes_MK, scales_M, zeros_M, dtype: tl.constexpr):
    """(code - zero point) * scale. A code in the lowest bits of 2^23 is a float32 number at once: conversions are a quarter as fast."""
    numbers_MK = (codes_MK | MAGIC_BITS).to(tl.float32, bitcast=True) - zeros_M[:, None]
    return narrow(numbers_MK * scales_M[:, None], dtype)


@triton.jit
def _halves(
    codes_ptr,
    scales_ptr,
    zeros_ptr,
    expert,
    row0,
    k0,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    HALF: tl.constexpr,
    dtype: tl.constexpr,
):
    """Two tiles [BLOCK_M, HALF] of weights: inputs from k0 and from k0 + HALF. Rows beyond the matrix are zero."""
    BYTES: tl.constexpr = (COLUMNS + 2 * HALF - 1) // (2 * HALF) * HALF  # a row
    G: tl.constexpr = (COLUMNS + GROUP - 1) // GROUP
    rows_M = row0 + tl.arange(0, BLOCK_M)
    inside_M = rows_M < ROWS
    wide = tl.full((), 0, tl.int64) + expert  # all experts' weights may exceed 2^31
    pointers_MK = codes_ptr + wide * (ROWS * BYTES) + rows_M[:, None] * BYTES + (k0 // 2 + tl.arange(0, HALF))[None, :]
    pairs_MK = tl.load(pointers_MK, mask=inside_M[:, None], other=0).to(tl.int32)
    first_scales_M, first_zeros_M = _of_half(scales_ptr, zeros_ptr, wide * (ROWS * G), rows_M, inside_M, k0, G, GROUP)
    second_scales_M, second_zeros_M = _of_half(scales_ptr, zeros_ptr, wide * (ROWS * G), rows_M, inside_M, k0 + HALF, G, GROUP)
    first_MK = _expanded(pairs_MK & 15, first_scales_M, first_zeros_M, dtype)
    second_MK = _expanded(pairs_MK >> 4, second_scales_M, second_zeros_M, dtype)
    return first_MK, second_MK


@triton.jit
def _inputs(x_ptr, rows_N, inside_N, k0, COLUMNS: tl.constexpr, HALF: tl.constexpr):
    """x[rows, k0 : k0 + HALF], transposed; zero beyond the columns, which are whole halves, and where a row is not inside."""
    pointers_NK = x_ptr + rows_N[:, None].to(tl.int64) * COLUMNS + (k0 + tl.arange(0, HALF))[None, :]
    inside_N1 = inside_N[:, None]
    if COLUMNS % (2 * HALF) != 0:
        inside_N1 = inside_N1 & (k0 < COLUMNS)
    return tl.trans(tl.load(pointers_NK, mask=inside_N1, other=0.0))


@triton.jit
def _up_kernel(
    x_ptr,
    codes_ptr,
    scales_ptr,
    zeros_ptr,
    act_ptr,
    slots_ptr,
    starts_ptr,
    tile_experts_ptr,
    tile_rows_ptr,
    num_tiles_ptr,
    D: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HALF: tl.constexpr,
):
    """As `grouped_gemm._up_kernel`."""
    f_tiles: tl.constexpr = (F + BLOCK_F - 1) // BLOCK_F
    dtype: tl.constexpr = act_ptr.dtype.element_ty
    for work in range(tl.program_id(0), tl.load(num_tiles_ptr) * f_tiles, tl.num_programs(0)):
        tile, f0 = work // f_tiles, work % f_tiles * BLOCK_F
        expert = tl.load(tile_experts_ptr + tile)
        rows_N = tl.load(tile_rows_ptr + tile) + tl.arange(0, BLOCK_N)
        mine_N = rows_N < tl.load(starts_ptr + expert + 1)
        tokens_N = tl.load(slots_ptr + rows_N, mask=mine_N, other=0) // C
        gate_FN = tl.zeros((BLOCK_F, BLOCK_N), tl.float32)
        up_FN = tl.zeros((BLOCK_F, BLOCK_N), tl.float32)
        for k0 in range(0, D, 2 * HALF):
            first_KN = _inputs(x_ptr, tokens_N, mine_N, k0, D, HALF)
            second_KN = _inputs(x_ptr, tokens_N, mine_N, k0 + HALF, D, HALF)
            first_FK, second_FK = _halves(codes_ptr, scales_ptr, zeros_ptr, expert, f0, k0, 2 * F, D, GROUP, BLOCK_F, HALF, dtype)
            gate_FN = dot(second_FK, second_KN, dot(first_FK, first_KN, gate_FN))
            first_FK, second_FK = _halves(codes_ptr, scales_ptr, zeros_ptr, expert, F + f0, k0, 2 * F, D, GROUP, BLOCK_F, HALF, dtype)
            up_FN = dot(second_FK, second_KN, dot(first_FK, first_KN, up_FN))
        act_FN = gate_FN * tl.sigmoid(gate_FN) * up_FN
        rows_F = f0 + tl.arange(0, BLOCK_F)
        out_FN = act_ptr + rows_N[None, :].to(tl.int64) * F + rows_F[:, None]
        tl.store(out_FN, narrow(act_FN, dtype), mask=(rows_F < F)[:, None] & mine_N[None, :])


@triton.jit
def _down_kernel(
    act_ptr,
    codes_ptr,
    scales_ptr,
    zeros_ptr,
    out_ptr,
    slots_ptr,
    starts_ptr,
    tile_experts_ptr,
    tile_rows_ptr,
    num_tiles_ptr,
    D: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HALF: tl.constexpr,
):
    """out[token, choice] = down(act[row]), for all C choices of each token."""
    d_tiles: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    for work in range(tl.program_id(0), tl.load(num_tiles_ptr) * d_tiles, tl.num_programs(0)):
        tile, d0 = work // d_tiles, work % d_tiles * BLOCK_D
        expert = tl.load(tile_experts_ptr + tile)
        rows_N = tl.load(tile_rows_ptr + tile) + tl.arange(0, BLOCK_N)
        mine_N = rows_N < tl.load(starts_ptr + expert + 1)
        acc_DN = tl.zeros((BLOCK_D, BLOCK_N), tl.float32)
        for k0 in range(0, F, 2 * HALF):
            first_KN = _inputs(act_ptr, rows_N, mine_N, k0, F, HALF)
            second_KN = _inputs(act_ptr, rows_N, mine_N, k0 + HALF, F, HALF)
            first_DK, second_DK = _halves(codes_ptr, scales_ptr, zeros_ptr, expert, d0, k0, D, F, GROUP, BLOCK_D, HALF, dtype)
            acc_DN = dot(second_DK, second_KN, dot(first_DK, first_KN, acc_DN))
        slots_N = tl.load(slots_ptr + rows_N, mask=mine_N, other=0)
        rows_D = d0 + tl.arange(0, BLOCK_D)
        out_DN = out_ptr + slots_N[None, :].to(tl.int64) * D + rows_D[:, None]
        tl.store(out_DN, narrow(acc_DN, dtype), mask=(rows_D < D)[:, None] & mine_N[None, :])


def up(x_TD: Tensor, gate_up: Int4Matrices, plan: Plan, tiles: Tiles) -> Tensor:
    """silu(gate) * up of every sorted row, [R, F], for x [T, D] and weights [X, 2F, D], gate rows first.

    Raises ValueError for what does not fit together, as `down` does.
    """
    T, R, width = len(x_TD), len(plan.slots), gate_up.shape[1] // 2
    _check(x_TD, gate_up, plan)
    act_RF = torch.empty(R, width, dtype=x_TD.dtype, device=x_TD.device)
    sizes = {"D": gate_up.inputs, "F": width, "BLOCK_F": tiles.block_m // 2}
    _launch(_up_kernel, x_TD, gate_up, act_RF, plan, tiles, R // T, sizes)
    return act_RF


def down(act_RF: Tensor, down: Int4Matrices, plan: Plan, T: int, tiles: Tiles) -> Tensor:
    """down(act) of every sorted row, put back as [T, C, D]: all slots of a token."""
    R, D = len(plan.slots), down.shape[1]
    _check(act_RF, down, plan)
    if len(act_RF) != R:
        raise ValueError(f"{len(act_RF)} rows of activations for a plan of {R}")
    out_TCD = torch.empty(T, R // T, D, dtype=act_RF.dtype, device=act_RF.device)
    _launch(_down_kernel, act_RF, down, out_TCD, plan, tiles, R // T, {"D": D, "F": down.inputs, "BLOCK_D": tiles.block_m})
    return out_TCD


def routed_experts(
    x_TD: Tensor,
    topk_weights_TK: Tensor,
    topk_ids_TK: Tensor,
    gate_up_EGD: Int4Matrices,
    down_EDF: Int4Matrices,
    tuned: Tuning | None = None,
) -> Tensor:
    """As `moe_lm.model.routed_experts`, with weights of four bits. [T, D]

    The tiles are those found for `grouped_gemm` at this shape, whose `block_k` has no meaning here.
    """
    (T, K), (E, D, width) = topk_ids_TK.shape, down_EDF.shape
    level = (tuned or tuning(x_TD.device, E, K, D, width, x_TD.dtype)).level(T, K, E)
    plan = routing.plan(topk_ids_TK, E, level.block_n)
    return combine(down(up(x_TD, gate_up_EGD, plan, level.up), down_EDF, plan, T, level.down), topk_weights_TK)


def _launch(
    kernel: Any, rows: Tensor, weight: Int4Matrices, out: Tensor, plan: Plan, tiles: Tiles, slots: int, sizes: dict[str, int]
) -> None:
    """A persistent grid over the plan's tiles."""
    shared = {"C": slots, "GROUP": weight.group_size, "BLOCK_N": plan.block_n, "HALF": HALF}
    tensors = (rows.contiguous(), weight.codes, weight.scales, weight.zeros, out)
    grid = (num_programs(rows.device, tiles.programs_per_multiprocessor),)
    kernel[grid](*tensors, *plan[:5], **sizes, **shared, num_warps=tiles.num_warps, num_stages=tiles.num_stages)


def _check(rows: Tensor, weight: Int4Matrices, plan: Plan) -> None:
    """ValueError unless the weights take such rows, of the plan's experts: the kernels read without looking."""
    if rows.dtype not in (torch.float32, torch.bfloat16, torch.float16) or rows.ndim != 2 or rows.shape[1] != weight.inputs:
        raise ValueError(f"rows are {rows.dtype} {list(rows.shape)}; weights of {weight.inputs} inputs want floats [rows, {weight.inputs}]")
    if len(plan.starts) != len(weight) + 1:
        raise ValueError(f"a plan of {len(plan.starts) - 1} experts for {len(weight)} matrices")
    devices = {str(each.device) for each in (rows, weight.codes, weight.scales, weight.zeros, plan.slots)}
    if len(devices) > 1:
        raise ValueError(f"rows, weights and plan are on {' and '.join(sorted(devices))}")
