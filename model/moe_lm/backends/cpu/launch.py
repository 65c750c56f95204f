"""The launchers of the CPU kernels, one for each C++ function: they check every argument, then call it.

T tokens, M rows, K inputs, O outputs, E matrices, R routed rows; H query heads, J key/value heads, d head_dim; P pages of PAGE tokens.
No row's bits depend on how many rows are computed with it, nor on the processor's vector width (see csrc/simd.h).

What does not fit raises ValueError: shape, dtype, strides and device are checked here, indices in C++ before it computes.

Floors: `gemm` reads its weights from memory once, 4 or 2 bytes each, and computes 2 FLOPs for each row and weight; `paged_attention`
reads 8 d bytes for each token and key/value head, once for all neighbouring tokens that share the page, and computes 4 d FLOPs for each
token and query head.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from moe_lm.backends.base import PAGE
from moe_lm.backends.cpu.check import check, check_range
from moe_lm.backends.cpu.library import call
from moe_lm.backends.cpu.pack import ACTIVATIONS, DTYPES, PackedMatrix
from moe_lm.backends.cpu.pack_quantized import PackedBlocks
from moe_lm.quant.k_quants import BLOCK
from moe_lm.quant.weight import QuantizedWeight

SPAN = 64  # keys, or numbers of a value, that attention computes together; as in csrc/kernels.h


def gemm(
    x_MK: Tensor,
    matrix: PackedMatrix | PackedBlocks,
    offsets: Tensor | None = None,
    order_R: Tensor | None = None,
    out: Tensor | None = None,
    accumulate: bool = False,
    row_scales_M: Tensor | None = None,
    int8: bool = False,
) -> Tensor:
    """x @ matrix.T + bias, or the gated product of a matrix with an activation: [M, K] -> [M, O] in x's dtype, float32 or bfloat16.

    The rows offsets[e] .. offsets[e + 1] - 1 are multiplied with matrix e; without offsets all of them with the first. With an order,
    the rows are x[order], R of them. The result is written into float32 `out`, or with `accumulate` added to it, each row times its scale.

    Packed blocks of quantised weights give the very bits of the float32 numbers that they stand for. With `int8`, which concerns these
    alone, each row of x is quantised too, as llama.cpp does it (csrc/activations.h), blocks are multiplied as integers and their products
    summed in float32.
    """
    check("x", x_MK, (None, matrix.inputs), *DTYPES, contiguous=False)
    x, E = x_MK.float().contiguous(), matrix.matrices
    if order_R is not None:
        check("order", order_R, (None,), torch.int64)
    M = (x if order_R is None else order_R).shape[0]
    if out is None:
        out = x.new_empty(M, matrix.outputs)
    else:
        check("out", out, (M, matrix.outputs), torch.float32)
    if offsets is None:
        offsets = _all_with_the_first(M, E)
    else:
        check("offsets", offsets, (E + 1,), torch.int64)
    if row_scales_M is not None:
        check("row_scales", row_scales_M, (M,), *DTYPES, contiguous=False)
        row_scales_M = row_scales_M.float().contiguous()
        if not accumulate:
            raise ValueError("row_scales are for accumulate=True")
    rows, sizes = (x, x.shape[0], order_R, offsets, E), (M, matrix.inputs, matrix.outputs, ACTIVATIONS[matrix.activation])
    if isinstance(matrix, PackedBlocks):
        parts = (matrix.addresses, len(matrix.parts), matrix.places)
        call("gemm_blocks", *rows, *parts, *sizes, matrix.bias, accumulate, row_scales_M, int8, out)
    else:
        call("gemm", *rows, matrix.weights, matrix.weights.dtype == torch.bfloat16, *sizes, matrix.bias, accumulate, row_scales_M, out)
    return out if x_MK.dtype == torch.float32 else out.to(x_MK.dtype)


@lru_cache(maxsize=1024)
def _all_with_the_first(M: int, E: int) -> Tensor:
    """Offsets of `gemm`, kept: a decode step takes the same ones for every product."""
    return torch.tensor([0] + [M] * E)


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * (offset + weight), in float32. [T, D] -> [T, D]"""
    check("x", x_TD, (None, None), torch.float32, contiguous=False)
    check("weight", weight_D, (x_TD.shape[1],), torch.float32)
    x = x_TD.contiguous()
    out = torch.empty_like(x)
    call("rms_norm", x, weight_D, *x.shape, eps, offset, out)
    return out


def rope_(x_TW: Tensor, cos_Tr: Tensor, sin_Tr: Tensor, heads: int) -> None:
    """Rotary embedding (half-split layout, r = d / 2) of the first `heads` heads of each float32 row, in place."""
    check("x", x_TW, (None, None), torch.float32)
    check("cos", cos_Tr, (x_TW.shape[0], None), torch.float32, contiguous=False)
    check("sin", sin_Tr, cos_Tr.shape, torch.float32, contiguous=False)
    (T, width), d = x_TW.shape, 2 * cos_Tr.shape[1]
    check_range("heads", heads, 0, width // d if d else 0)
    call("rope", x_TW, cos_Tr.contiguous(), sin_Tr.contiguous(), T, heads, d, width)


@dataclass(frozen=True, slots=True, eq=False)
class TokenPlaces:
    """The places of the T tokens of a pass: position and sequence of each, int32 [T], and the pages of the N sequences, int32 [N, most]."""

    positions: Tensor
    sequences: Tensor
    table: Tensor

    def __post_init__(self) -> None:
        check("positions", self.positions, (None,), torch.int32)
        check("sequences", self.sequences, self.positions.shape, torch.int32)
        check("table", self.table, (None, None), torch.int32)


def page_shape(which: str, d: int) -> tuple[int, int, int]:
    """Shape of one head's "k" or "v" on a page: what attention reads together is contiguous."""
    return (PAGE // SPAN, d, SPAN) if which == "k" else (-(-d // SPAN), PAGE, SPAN)


def append_kv(k_TJd: Tensor, v_TJd: Tensor, places: TokenPlaces, k_pages: Tensor, v_pages: Tensor) -> None:
    """Write the tokens' keys and values to their places on the float32 pages, [P, J, *page_shape]."""
    check("k", k_TJd, (places.positions.shape[0], None, None), *DTYPES, contiguous=False)
    check("v", v_TJd, k_TJd.shape, *DTYPES, contiguous=False)
    k, v = _heads(k_TJd), _heads(v_TJd)
    check_pages(k_pages, v_pages, *k.shape[1:])
    call("append_kv", k, k.stride(0), v, v.stride(0), *k.shape, *table_of(places, k_pages), k_pages, v_pages)


def paged_attention(
    q_THd: Tensor, places: TokenPlaces, k_pages: Tensor, v_pages: Tensor, window: int | None, scale: float | None = None
) -> Tensor:
    """Each token's attention to its own sequence up to itself, or to the last `window` tokens of that. [T, H, d] -> [T, H, d]

    Scores are multiplied by `scale`, 1 / sqrt(d) where it is None.
    """
    check("q", q_THd, (places.positions.shape[0], None, None), *DTYPES, contiguous=False)
    check("k_pages", k_pages, (None,) * 5, torch.float32)
    (T, H, d), J, q = q_THd.shape, k_pages.shape[1], _heads(q_THd)
    check_pages(k_pages, v_pages, J, d)
    if not J or H % J:
        raise ValueError(f"q has {H} heads, and the pages have {J}; wanted: a multiple")
    if window is not None:
        check_range("window", window, 1, 2**31 - 1)
    if scale is None:
        scale = d**-0.5
    out = q.new_empty(T, H, d)
    call("paged_attention", q, q.stride(0), T, H, J, d, scale, *table_of(places, k_pages), window or 0, k_pages, v_pages, out)
    return out.to(q_THd.dtype)


def combine(y_RD: Tensor, rows_TK: Tensor, weights_TK: Tensor, begin: int, out_TD: Tensor) -> None:
    """Add to each token's sum the weighted outputs of those of its experts that computed the rows begin .. begin + R - 1.

    rows_TK int64 are each token's rows in the order in which they are added; the sums start from zero where `begin` is 0.
    """
    check("y", y_RD, (None, None), torch.float32)
    check("rows", rows_TK, (None, None), torch.int64)
    check("weights", weights_TK, rows_TK.shape, torch.float32)
    check("out", out_TD, (len(rows_TK), y_RD.shape[1]), torch.float32)
    check_range("begin", begin, 0, 2**31 - 1 - len(y_RD))
    call("combine", y_RD, rows_TK, weights_TK, *rows_TK.shape, y_RD.shape[1], begin, begin + len(y_RD), out_TD)


def route(router_logits_TE: Tensor, num_experts_per_tok: int, norm_topk_prob: bool) -> tuple[Tensor, Tensor]:
    """As `moe_lm.model.route`: softmax, then the top K, ties to the lowest expert. Float32 weights and int64 ids, both [T, K]."""
    check("router_logits", router_logits_TE, (None, None), torch.float32, contiguous=False)
    (T, E), K = router_logits_TE.shape, num_experts_per_tok
    check_range("num_experts_per_tok", K, 1, E)
    weights_TK, ids_TK = torch.empty(T, K), torch.empty(T, K, dtype=torch.int64)
    call("route", router_logits_TE.contiguous(), T, E, K, norm_topk_prob, weights_TK, ids_TK)
    return weights_TK, ids_TK


def sigmoid(x_T: Tensor) -> Tensor:
    """1 / (1 + e^-x) of float32 numbers. [T] -> [T]"""
    check("x", x_T, (None,), torch.float32, contiguous=False)
    out_T = torch.empty(len(x_T))
    call("sigmoid", x_T.contiguous(), len(x_T), out_T)
    return out_T


def rotation(positions_T: Tensor, inv_freq_r: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines for `rope_` of int32 positions, [T, r] float32 each."""
    check("positions", positions_T, (None,), torch.int32)
    check("inv_freq", inv_freq_r, (None,), torch.float32)
    T, r = len(positions_T), len(inv_freq_r)
    cos_Tr, sin_Tr = torch.empty(T, r), torch.empty(T, r)
    call("rotation", positions_T, inv_freq_r, T, r, cos_Tr, sin_Tr)
    return cos_Tr, sin_Tr


def logsumexp(x_PV: Tensor) -> Tensor:
    """log(sum(e^x)) of each float32 row. [P, V] -> [P]"""
    check("x", x_PV, (None, None), torch.float32, contiguous=False)
    check_range("the width of x", x_PV.shape[1], 1, 2**31 - 1)
    out_P = torch.empty(len(x_PV))
    call("logsumexp", x_PV.contiguous(), *x_PV.shape, out_P)
    return out_P


def _heads(x_THd: Tensor) -> Tensor:
    """In float32, each token's heads side by side; the tokens may have a larger stride, as in the output of a fused product."""
    x = x_THd.float()
    return x if x.stride()[1:] == (x.shape[2], 1) and x.stride(0) >= 0 else x.contiguous()


def check_pages(k_pages: Tensor, v_pages: Tensor, J: int, d: int) -> None:
    """Raise ValueError unless these are the pages of J heads."""
    check("k_pages", k_pages, (None, J, *page_shape("k", d)), torch.float32)
    check("v_pages", v_pages, (k_pages.shape[0], J, *page_shape("v", d)), torch.float32)


def table_of(places: TokenPlaces, k_pages: Tensor) -> tuple[Tensor, Tensor, Tensor, int, int, int]:
    """`places` as C++ takes them."""
    return places.positions, places.sequences, places.table, *places.table.shape, k_pages.shape[0]


def k_quants(x: Tensor, bits: int) -> Tensor:
    """Blocks of Q4_K, Q5_K or Q6_K (`bits` 4, 5, 6) of float32 weights, in their order: uint8 [blocks, bytes of a block].

    The bytes are those of `moe_lm.quant.k_quants`, whose search it is.
    """
    check("x", x, (None, BLOCK), torch.float32)
    check_range("bits", bits, 4, 6)
    out = torch.empty(len(x), QuantizedWeight.row_bytes(f"Q{bits}_K", BLOCK), dtype=torch.uint8)
    call("k_quants", x, len(x), bits, out)
    return out
