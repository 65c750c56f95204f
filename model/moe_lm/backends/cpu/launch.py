"""The launchers of the CPU kernels, one for each C++ function: they check every argument, then call it.

T tokens, M rows, K inputs, O outputs, E matrices, R routed rows; H query heads, J key/value heads, d head_dim; P pages of PAGE tokens.
No row's bits depend on how many rows are computed with it, nor on the processor's vector width (see csrc/).

Floors: `gemm` reads its weights from memory once, 4 or 2 bytes each, and computes 2 FLOPs for each row and weight; `paged_attention`
reads 8 d bytes for each token and key/value head, once for all neighbouring tokens that share the page, and computes 4 d FLOPs for each
token and query head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from moe_lm.backends.cpu.library import call
from moe_lm.backends.cpu.pack import ACTIVATIONS, PackedMatrix

PAGE, SPAN = 128, 64  # tokens of a page, and keys (or numbers of a value) that attention computes together; as in csrc/


def gemm(
    x_MK: Tensor,
    matrix: PackedMatrix,
    offsets: Tensor | None = None,
    order_R: Tensor | None = None,
    out: Tensor | None = None,
    accumulate: bool = False,
    row_scales_M: Tensor | None = None,
) -> Tensor:
    """x @ matrix.T + bias, or the gated product of a matrix with an activation: [M, K] -> [M, O] in x's dtype.

    The rows offsets[e] .. offsets[e + 1] - 1 are multiplied with matrix e; without offsets all of them with the first. With an order,
    the rows are x[order], R of them. The result is written into float32 `out`, or with `accumulate` added to it, each row times its scale.
    """
    x = x_MK.float().contiguous()
    shape = (len(x) if order_R is None else len(order_R), matrix.outputs)
    result = x.new_empty(shape) if out is None else out
    assert result.shape == shape
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert accumulate or row_scales_M is None
    offsets = torch.tensor((0, len(result))) if offsets is None else offsets
    E, bfloat16 = len(matrix.weights), matrix.weights.dtype == torch.bfloat16
    scales = None if row_scales_M is None else row_scales_M.float().contiguous()
    arguments = (E, matrix.weights, bfloat16, matrix.inputs, matrix.outputs, ACTIVATIONS[matrix.activation], matrix.bias)
    call("gemm", x, order_R, offsets, *arguments, accumulate, scales, result)
    return result.to(x_MK.dtype)


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * (offset + weight), in float32. [T, D] -> [T, D]"""
    x = x_TD.contiguous()
    out = torch.empty_like(x)
    call("rms_norm", x, weight_D, *x.shape, float(eps), float(offset), out)
    return out


def rope_(x_TW: Tensor, cos_Tr: Tensor, sin_Tr: Tensor, heads: int) -> None:
    """Rotary embedding (half-split layout, r = d / 2) of the first `heads` heads of each float32 row, in place."""
    cos, sin = cos_Tr.contiguous(), sin_Tr.contiguous()
    T, half = cos.shape
    call("rope", x_TW, cos, sin, T, heads, 2 * half, x_TW.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class TokenPlaces:
    """Where the T tokens of a pass lie: position and sequence of each, int32 [T], and the pages of the N sequences, int32 [N, most]."""

    positions: Tensor
    sequences: Tensor
    table: Tensor

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, int]:
        """As the kernels take them."""
        return self.positions, self.sequences, self.table, self.table.shape[1]


def page_shape(which: str, d: int) -> tuple[int, int, int]:
    """Shape of one head's "k" or "v" on a page: what attention reads together lies together."""
    return (PAGE // SPAN, d, SPAN) if which == "k" else (-(-d // SPAN), PAGE, SPAN)


def append_kv(k_TJd: Tensor, v_TJd: Tensor, places: TokenPlaces, k_pages: Tensor, v_pages: Tensor) -> None:
    """Write the tokens' keys and values to their places on the float32 pages, [P, J, *page_shape]."""
    k, v = _heads(k_TJd), _heads(v_TJd)
    call("append_kv", k, k.stride(0), v, v.stride(0), *k.shape, *places.arguments, k_pages, v_pages)


def paged_attention(q_THd: Tensor, places: TokenPlaces, k_pages: Tensor, v_pages: Tensor, window: int | None) -> Tensor:
    """Each token's attention to its own sequence up to itself, or to the last `window` tokens of that. [T, H, d] -> [T, H, d]"""
    q = _heads(q_THd)
    (T, H, d), J, out = q.shape, k_pages.shape[1], q.new_empty(q.shape)
    call("paged_attention", q, q.stride(0), T, H, J, d, d**-0.5, *places.arguments, int(window or 0), k_pages, v_pages, out)
    return out.to(q_THd.dtype)


def combine(y_RD: Tensor, rows_TK: Tensor, weights_TK: Tensor, begin: int, out_TD: Tensor) -> None:
    """Add to each token's sum the weighted outputs of those of its experts that computed the rows begin .. begin + R - 1.

    rows_TK int64 are each token's rows in the order in which they are added; the sums start from zero where `begin` is 0.
    """
    call("combine", y_RD, rows_TK, weights_TK, *rows_TK.shape, y_RD.shape[1], begin, begin + len(y_RD), out_TD)


def _heads(x_THd: Tensor) -> Tensor:
    """In float32, each token's heads side by side; the tokens may lie apart, as those of a product that gives more."""
    x = x_THd.float()
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()
