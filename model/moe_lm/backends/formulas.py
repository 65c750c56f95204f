"""What the kernels are compared with: plain loops in any dtype. Tests run them in float64.

T tokens, D hidden, F expert hidden, E experts, K experts a token; S the shared expert's hidden size;
B sequences, H query heads, J key/value heads, d head_dim, N tokens a page.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_lm.model import routed_experts


def moe_layer(
    x_TD: Tensor,
    topk_weights_TK: Tensor,
    topk_ids_TK: Tensor,
    gate_up_EGD: Tensor,
    down_EDF: Tensor,
    shared: tuple[Tensor, Tensor, Tensor] | None = None,
    shared_gate_T: Tensor | None = None,
) -> Tensor:
    """The weighted sum of each token's experts, and the shared expert (gate_SD, up_SD, down_DS) behind the sigmoid of its gate. [T, D]"""
    out_TD = routed_experts(x_TD, topk_weights_TK, topk_ids_TK, gate_up_EGD, down_EDF)
    if shared is not None:
        shared_TD = ffn(x_TD, *shared)
        out_TD += shared_TD if shared_gate_T is None else torch.sigmoid(shared_gate_T)[:, None] * shared_TD
    return out_TD


def ffn(x_TD: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor) -> Tensor:
    """SwiGLU. [T, D] -> [T, D]"""
    return (F.silu(x_TD @ gate_FD.t()) * (x_TD @ up_FD.t())) @ down_DF.t()


def paged_attention(
    q_BHd: Tensor,
    k_pages_PJNd: Tensor,
    v_pages_PJNd: Tensor,
    page_table: Tensor,
    lengths_B: Tensor,
    window: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """One query a sequence over its `length` keys (the last `window` of them), found page by page. [B, H, d]"""
    N = k_pages_PJNd.shape[2]
    out = []
    for q_Hd, pages, length in zip(q_BHd, page_table.tolist(), lengths_B.tolist(), strict=True):
        if not length:
            out.append(torch.zeros_like(q_Hd))
            continue
        mine, first = pages[: -(-length // N)], max(0, length - window) if window else 0
        k_JSd, v_JSd = (x[mine].transpose(0, 1).flatten(1, 2)[:, first:length] for x in (k_pages_PJNd, v_pages_PJNd))
        out.append(F.scaled_dot_product_attention(q_Hd[None, :, None], k_JSd[None], v_JSd[None], scale=scale, enable_gqa=True)[0, :, 0])
    return torch.stack(out)
