"""The seat of the expert kernels: routed tokens in, the weighted sum of their experts out.

T tokens, D hidden, F expert hidden, E experts, K experts a token.

A kernel is `f(x_TD, topk_weights_TK, topk_ids_TK, gate_up_EGD, down_EDF) -> out_TD` with G = 2F (gate rows, then up rows).
`reference`, here, is the definition of right, on any device. The other tenants are in `moe_lm.kernels`: `triton` for a GPU, `cpu` compiled
for this machine's processor (it takes the dense products and attention too), and `torch` where there is no compiler.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_lm.backends.cpu import library
from moe_lm.errors import ModelError

ExpertKernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
KERNELS = ("reference", "torch", "cpu", "triton")


def choose(kernel: str, device: str, dtype: torch.dtype = torch.float32) -> str:
    """The tenant for a device, "cpu" or "cuda": `kernel` itself, or the device's own for "auto". ModelError where it can't run there."""
    fits_cpu = dtype in (torch.float32, torch.bfloat16)
    if kernel == "auto":
        kernel = "triton" if device != "cpu" else "cpu" if fits_cpu and library.available() else "torch"
    if kernel not in KERNELS:
        raise ModelError(f"unknown expert kernel {kernel!r}; there are auto, {', '.join(KERNELS)}")
    if kernel == "cpu" and device != "cpu":
        raise ModelError(f"--kernel cpu runs on a CPU, and the device is {device}; use --kernel triton or reference")
    if kernel == "cpu" and not fits_cpu:
        raise ModelError(f"--kernel cpu takes float32 and bfloat16, and the dtype is {dtype}; use --kernel torch")
    if kernel == "cpu":
        library.load()
    if kernel == "triton":
        if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            raise ModelError("--kernel triton needs a GPU, and the device is cpu; use --kernel cpu, or set TRITON_INTERPRET=1 (slow)")
        if not find_spec("triton"):
            raise ModelError("--kernel triton needs the package triton; run `pip install 'evalkit[gpu]'`, or use --kernel reference")
    return kernel


def route(router_logits_TE: Tensor, num_experts_per_tok: int, norm_topk_prob: bool) -> tuple[Tensor, Tensor]:
    """Softmax in float32, then the top K, ties to the lowest expert. Returns float32 weights and int64 ids, both [T, K]."""
    probs_TE = torch.softmax(router_logits_TE.float(), dim=-1)
    # a stable descending sort keeps the lower index first among equals; torch.topk makes no such promise
    ordered_TE, ids_TE = torch.sort(probs_TE, dim=-1, descending=True, stable=True)
    weights_TK, ids_TK = ordered_TE[:, :num_experts_per_tok], ids_TE[:, :num_experts_per_tok]
    if norm_topk_prob:
        weights_TK = weights_TK / weights_TK.sum(dim=-1, keepdim=True)
    return weights_TK, ids_TK


def reference(x_TD: Tensor, topk_weights_TK: Tensor, topk_ids_TK: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
    """Expert after expert, each over its own tokens. [T, D] -> [T, D]"""
    out_TD = torch.zeros_like(x_TD)
    for expert in range(len(down_EDF)):
        tokens_N, choices_N = torch.where(topk_ids_TK == expert)
        gate_NF, up_NF = (x_TD[tokens_N] @ gate_up_EGD[expert].t()).chunk(2, dim=-1)
        y_ND = (F.silu(gate_NF) * up_NF) @ down_EDF[expert].t()
        out_TD.index_add_(0, tokens_N, y_ND * topk_weights_TK[tokens_N, choices_N, None].to(x_TD.dtype))
    return out_TD
