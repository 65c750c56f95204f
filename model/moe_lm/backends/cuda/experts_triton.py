"""The sparse layer in Triton: routing, both products and the sum, launched back to back, without a host synchronisation.

T tokens, D hidden, F expert hidden, E routed experts, K experts a token; S the shared expert's hidden size, A = S / F slices of it.

The shared expert is A more experts of width F that every token visits. Up to SLICED_TOKENS they are part of the same launches as
the routed ones; above, their second product is a separate launch that adds the slices up without storing them. Both give the same
bits: a token's result depends on nothing but the token, whatever T is.

Floors per layer: see `grouped_gemm` (weights and products), `combine` (reading the slots), `routing` (launches).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_lm.backends.cuda import grouped_gemm, routing
from moe_lm.backends.cuda.combine import combine
from moe_lm.backends.cuda.routing import Plan
from moe_lm.backends.cuda.tuning import Tuning, tuning
from moe_lm.model import MoE

SLICED_TOKENS = 512


@dataclass(frozen=True, slots=True)
class StackedExperts:
    """Weights as the kernels read them: `gate_up` [E + A, 2F, D] (gate rows, then up rows) and `down` [E + A, D, F]."""

    gate_up: Tensor
    down: Tensor
    num_experts: int

    @property
    def always_on(self) -> int:
        return len(self.down) - self.num_experts


def stack(gate_up_EGD: Tensor, down_EDF: Tensor, shared: tuple[Tensor, Tensor, Tensor] | None = None) -> StackedExperts:
    """The routed experts, and behind them the slices of the shared one (gate_SD, up_SD, down_DS); the last slice is padded with zeros.

    A new tensor each where there is a shared expert: point the model's parameters at `gate_up[:E]` and `down[:E]` to hold
    the routed experts once.
    """
    E, D, width = down_EDF.shape
    if shared is None:
        return StackedExperts(gate_up_EGD.contiguous(), down_EDF.contiguous(), E)
    gate_SD, up_SD, down_DS = shared
    missing = -len(gate_SD) % width
    # rows of zeros change nothing: silu(0) * 0 is 0
    gate, up = (F.pad(w, (0, 0, 0, missing)).view(-1, width, D) for w in (gate_SD, up_SD))
    down = F.pad(down_DS, (0, missing)).view(D, -1, width).transpose(0, 1)
    return StackedExperts(torch.cat((gate_up_EGD, torch.cat((gate, up), dim=1))), torch.cat((down_EDF, down)), E)


def moe_layer(
    x_TD: Tensor,
    router_logits_TE: Tensor,
    experts: StackedExperts,
    num_experts_per_tok: int,
    norm_topk_prob: bool,
    shared_gate_T: Tensor | None = None,
    tuned: Tuning | None = None,
) -> Tensor:
    """The whole sparse layer behind the router's product. [T, D] -> [T, D]; `shared_gate_T` is the gate before its sigmoid."""
    T, K, E = len(x_TD), num_experts_per_tok, experts.num_experts
    tuned = tuned or _tuning(x_TD, experts, K)
    block_n = tuned.level(T, K, E).block_n
    weights_TK, _, plan = routing.route(router_logits_TE, K, norm_topk_prob, block_n, experts.always_on)
    return _run(x_TD, weights_TK, plan, experts, tuned, shared_gate_T)


def routed_experts(x_TD: Tensor, topk_weights_TK: Tensor, topk_ids_TK: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
    """As `moe_lm.model.routed_experts`: routing done, no shared expert. [T, D] -> [T, D]"""
    experts = StackedExperts(gate_up_EGD, down_EDF, len(down_EDF))
    (T, K), E = topk_ids_TK.shape, experts.num_experts
    tuned = _tuning(x_TD, experts, K)
    plan = routing.plan(topk_ids_TK, E, tuned.level(T, K, E).block_n)
    return _run(x_TD, topk_weights_TK, plan, experts, tuned, None)


class TritonMoE(nn.Module):
    """A decoder's sparse layer on these kernels, [T, D] -> [T, D]; the products of the router and of the gate stay torch's.

    It stacks the weights of `moe` as they are now, whose routed experts become views of the stack.
    """

    def __init__(self, moe: MoE):
        super().__init__()
        shared, self.moe, self.router, self.gate = moe.shared_expert, moe.moe, moe.router, moe.shared_expert_gate
        slices = None if shared is None else (shared.gate_proj.weight.data, shared.up_proj.weight.data, shared.down_proj.weight.data)
        self.stacked = stack(moe.experts.gate_up_EGD.data, moe.experts.down_EDF.data, slices)
        routed, E = moe.experts, moe.moe.num_experts
        routed.gate_up_EGD.data, routed.down_EDF.data = self.stacked.gate_up[:E], self.stacked.down[:E]

    def forward(self, x_TD: Tensor) -> Tensor:
        if not len(x_TD):  # the last layer of a prompt's chunk, after which nothing is wanted
            return x_TD
        shared_gate_T = None if self.gate is None else self.gate(x_TD)[:, 0].contiguous()
        return moe_layer(x_TD, self.router(x_TD), self.stacked, self.moe.num_experts_per_tok, self.moe.norm_topk_prob, shared_gate_T)


def _run(x_TD: Tensor, weights_TK: Tensor, plan: Plan, experts: StackedExperts, tuned: Tuning, shared_gate_T: Tensor | None) -> Tensor:
    (T, K), E, A = weights_TK.shape, experts.num_experts, experts.always_on
    level = tuned.level(T, K, E)
    act_RF = grouped_gemm.up(x_TD, experts.gate_up, plan, level.up, tuned.block_k)
    sliced = T <= SLICED_TOKENS
    slots_TCD = grouped_gemm.down(act_RF, experts.down, plan, K + A if sliced else K, T, level.down, tuned.block_k)
    shared_TD = None
    if A and not sliced:
        shared_TD = grouped_gemm.shared_down(act_RF, experts.down, E, T, plan.block_n, level.down, tuned.block_k)
    return combine(slots_TCD, weights_TK, shared_TD, shared_gate_T)


def _tuning(x_TD: Tensor, experts: StackedExperts, num_experts_per_tok: int) -> Tuning:
    _, D, width = experts.down.shape
    return tuning(x_TD.device, experts.num_experts, num_experts_per_tok, D, width, x_TD.dtype)
