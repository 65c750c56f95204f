"""The `torch` tenant of the experts' seat: each expert over its own tokens, in products whose columns don't depend on one another.

T tokens, D hidden, F expert hidden, G = 2F, E experts, K experts a token; N columns, one for each of an expert's tokens.

An expert sees few tokens and has many weights, so what counts is how a product takes the weights: with a token a column, in a
contiguous [D, N], and the weights' rows dealt out in shares of 128, MKL needs half the time that it does for x @ w.t() at 48 tokens,
and four fifths at 144. It also gives a token the same bits among any number of others, which `tiles.columns` has only up to 128.

Weights that the processor can't multiply as they are (bfloat16, mostly) become float32, some rows at a time, while they are in its cache;
those sums are then better than bfloat16's own. Which form it is follows from machine and phase, never from how many tokens an expert sees.

Floors, float32: bytes 12 D F for each expert visited, FLOPs 6 D F a row. At Qwen1.5-MoE's shape on two cores with 18 GB/s and 240 GFLOP/s:
T = 1: 8 ms, 8: 49, 64: 114, 512: 148, 2048: 590, 4096: 1181.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_lm.backends.tiles import MAX_ROWS, columns, is_prefill, pad_rows

SHARE_ROWS = 128  # of an expert's weights: MKL's packed copy of them stays in the L2 cache, and its sums are cut in one way only
FEW_ROWS, FEW_COLUMNS = 16, 48  # up to so many columns smaller shares are faster, and the bits are the same
MAX_COLUMNS = 320  # of one product: each share reads them all, from the cache


def routed_experts(x_TD: Tensor, topk_weights_TK: Tensor, topk_ids_TK: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
    """The seat's call (`experts.ExpertKernel`). [T, D] -> [T, D]; a token's experts are added up in the order of their numbers."""
    (T, K), E = topk_ids_TK.shape, len(down_EDF)
    dtype = x_TD.dtype if _multiplies(x_TD.dtype, is_prefill(T)) else torch.float32
    most = MAX_ROWS if dtype.itemsize == 2 else MAX_COLUMNS
    inputs_TD, out_TD = x_TD.to(dtype), torch.zeros_like(x_TD, dtype=torch.promote_types(dtype, torch.float32))
    ids_R = topk_ids_TK.flatten()  # R = T * K: one row for each (token, expert) pair
    order_R = torch.argsort(ids_R, stable=True)
    tokens_R, weights_R = order_R // K, topk_weights_TK.flatten()[order_R]
    counts = torch.bincount(ids_R, minlength=E).tolist()
    for expert, (tokens_N, weights_N) in enumerate(zip(tokens_R.split(counts), weights_R.split(counts), strict=True)):
        if not len(tokens_N):
            continue
        pieces = tokens_N.tensor_split(-(-len(tokens_N) // most))
        acts = [_swiglu(gate_up_GN) for gate_up_GN in _products(gate_up_EGD[expert], [_columns_of(inputs_TD, piece) for piece in pieces])]
        outs = _products(down_EDF[expert], acts)
        for piece, out_DN, weights in zip(pieces, outs, weights_N.tensor_split(len(pieces)), strict=True):
            out_TD.index_add_(0, piece, (out_DN[:, : len(piece)] * weights.to(out_TD.dtype)).t())
    return out_TD.to(x_TD.dtype)


def _swiglu(gate_up_GN: Tensor) -> Tensor:
    gate_FN, up_FN = gate_up_GN.chunk(2)
    return F.silu(gate_FN, inplace=True).mul_(up_FN)


def _columns_of(x_TD: Tensor, tokens_N: Tensor) -> Tensor:
    """[D, N], contiguous, N rounded up with zeros."""
    return pad_rows(x_TD[tokens_N]).t().contiguous()


def _products(weight_OD: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """[O, D] x [D, N] -> [O, N] for each of the inputs, in their precision."""
    if weight_OD.dtype == inputs[0].dtype:
        return [_product(weight_OD, x_DN) for x_DN in inputs]
    rows = max(2, torch.get_num_threads()) * SHARE_ROWS
    wide_OD = inputs[0].new_empty(min(rows, len(weight_OD)), weight_OD.shape[1])
    parts = [[_product(wide_OD[: len(some)].copy_(some), x_DN) for x_DN in inputs] for some in weight_OD.split(rows)]
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def _product(weight_OD: Tensor, x_DN: Tensor) -> Tensor:
    return columns(weight_OD, x_DN, FEW_ROWS if x_DN.shape[1] <= FEW_COLUMNS else SHARE_ROWS)


@cache
def _multiplies(dtype: torch.dtype, prefill: bool) -> bool:
    """Does this processor multiply numbers of `dtype` at least as fast as it would widen them to float32 first?

    AVX512-BF16 does while the weights' bytes decide, in a decode step: 83 GFLOP/s a core beside float32's 145 on a Xeon that has it.
    """
    if dtype == torch.bfloat16:
        known = torch.cpu.get_capabilities()
        return bool(known.get("amx_bf16") or (known.get("avx512_bf16") and not prefill))
    return dtype == torch.float32 or dtype == torch.float64
