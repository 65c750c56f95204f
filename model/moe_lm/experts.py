"""The seat of the expert kernels: routed tokens in, the weighted sum of their experts out.

T tokens, D hidden, F expert hidden, E experts, K experts a token.

A kernel is `f(x_TD, topk_weights_TK, topk_ids_TK, gate_up_EGD, down_EDF) -> out_TD` with G = 2F (gate rows, then up rows).
`reference` is the definition of right; every other kernel is tested against it and chosen by name through `KERNELS`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_lm.tiles import EXPERT_ROWS, ROWS, columns, is_prefill, linear, pad_rows, row_tiles

ExpertKernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


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
    """Each expert over its own tokens, then a sum over K in a fixed order, so that no atomics or neighbours enter the result."""
    T, K = topk_ids_TK.shape
    run = _prefill if is_prefill(T) else _decode
    slots_ND = x_TD.new_empty(T * K, x_TD.shape[1])  # N = T * K: one row for each (token, expert) pair
    order_N = torch.argsort(topk_ids_TK.flatten(), stable=True)
    counts = torch.bincount(topk_ids_TK.flatten(), minlength=gate_up_EGD.shape[0]).tolist()
    start = 0
    for expert, count in enumerate(counts):
        if count:
            rows = order_N[start : start + count]
            slots_ND[rows] = run(x_TD[rows // K], gate_up_EGD[expert], down_EDF[expert])[:count]
            start += count
    weighted_TKD = slots_ND.view(T, K, x_TD.shape[1]) * topk_weights_TK.to(x_TD.dtype)[:, :, None]
    out_TD = weighted_TKD[:, 0]
    for k in range(1, K):
        out_TD = out_TD + weighted_TKD[:, k]
    return out_TD


def _prefill(x_ND: Tensor, gate_up_GD: Tensor, down_DF: Tensor) -> Tensor:
    gate, up = linear(pad_rows(x_ND, EXPERT_ROWS), gate_up_GD, tile=EXPERT_ROWS).chunk(2, dim=-1)
    return linear(F.silu(gate) * up, down_DF, tile=EXPERT_ROWS)


def _decode(x_ND: Tensor, gate_up_GD: Tensor, down_DF: Tensor) -> Tensor:
    out = []
    for x in row_tiles(pad_rows(x_ND, ROWS)):
        gate_FN, up_FN = columns(gate_up_GD, x.t()).chunk(2)
        out.append(columns(down_DF, F.silu(gate_FN).mul_(up_FN)).t())
    return torch.cat(out)


KERNELS: dict[str, ExpertKernel] = {"reference": reference}
