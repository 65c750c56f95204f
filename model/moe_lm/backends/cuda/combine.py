"""The sum of a token's experts, in a fixed order and without atomics: routed ones by weight, the shared one by its gate.

T tokens, D hidden, K routed experts a token, A always-on experts (slices of the shared one), C = K + A slots a token.

Floors for D = 2048, K = 4, bf16: bytes 2 T D (C + 1), that is 36.9 kB a token with A = 4 (6.3 us at T = 512 and 3 TB/s) or, with
the shared expert's sum in one tensor, 24.6 kB (67 us at T = 8192); FLOPs 2 T D C, nothing beside the bytes.

The always-on slices are added up in float32 and rounded once, as `grouped_gemm.shared_down` does for many tokens: one value both ways.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lm.backends.cuda.launch import narrow

BLOCK_D = 1024


@triton.jit
def _combine_kernel(
    slots_ptr,
    weights_ptr,
    shared_ptr,
    gate_ptr,
    out_ptr,
    D: tl.constexpr,
    K: tl.constexpr,
    A: tl.constexpr,
    SHARED: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    columns_D = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside_D = columns_D < D
    slot_ptr = slots_ptr + token * (K + A) * D + columns_D
    out_D = tl.zeros((BLOCK_D,), tl.float32)
    for k in tl.static_range(K):
        out_D += tl.load(weights_ptr + token * K + k).to(tl.float32) * tl.load(slot_ptr + k * D, mask=inside_D, other=0.0).to(tl.float32)
    if A > 0 or SHARED:
        shared_D = tl.zeros((BLOCK_D,), tl.float32)
        for a in tl.static_range(A):
            shared_D += tl.load(slot_ptr + (K + a) * D, mask=inside_D, other=0.0).to(tl.float32)
        if SHARED:
            shared_D = tl.load(shared_ptr + token * D + columns_D, mask=inside_D, other=0.0).to(tl.float32)
        shared_D = narrow(shared_D, out_ptr.dtype.element_ty).to(tl.float32)
        if GATED:
            shared_D *= tl.sigmoid(tl.load(gate_ptr + token).to(tl.float32))
        out_D += shared_D
    tl.store(out_ptr + token * D + columns_D, narrow(out_D, out_ptr.dtype.element_ty), mask=inside_D)


def combine(slots_TCD: Tensor, topk_weights_TK: Tensor, shared_TD: Tensor | None = None, shared_gate_T: Tensor | None = None) -> Tensor:
    """[T, C, D], [T, K] -> [T, D]. Slots from K on are slices of the shared expert, unless its sum comes as `shared_TD`.

    `shared_gate_T`: the gate before its sigmoid; without it the shared expert counts in full.
    """
    T, C, D = slots_TCD.shape
    K = topk_weights_TK.shape[1]
    out_TD = torch.empty(T, D, dtype=slots_TCD.dtype, device=slots_TCD.device)
    block = min(BLOCK_D, triton.next_power_of_2(D))
    flags = {"SHARED": shared_TD is not None, "GATED": shared_gate_T is not None}
    inputs = (slots_TCD, topk_weights_TK.contiguous(), shared_TD, shared_gate_T, out_TD)
    _combine_kernel[(T, triton.cdiv(D, block))](*inputs, D=D, K=K, A=C - K, **flags, BLOCK_D=block)
    return out_TD
