"""A mixture of experts out of a dense model, with the function kept exactly.

The dense FFN is a sum over its intermediate dimension. Cut it in two: every routed expert carries the first slice, the
shared expert the second. With norm_topk_prob the routing weights sum to one, so identical experts give that slice whatever
the router says; a zero shared_expert_gate is sigmoid(0) = 0.5, so the shared down projection is doubled.
It gives real pretrained weights an exact MoE twin: an oracle for router and kernels. (Komatsuzaki et al., "Sparse
Upcycling", arXiv 2212.05055, for the idea of copying; the slices are ours.)
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from moe_lm.config import MoEConfig
from moe_lm.errors import ModelError
from moe_lm.model import FFN, Decoder, Layer, MoE


@dataclass(frozen=True, slots=True)
class Upcycle:
    """Number of routed experts, how many a token visits, their width, and the seed of the random router."""

    num_experts: int = 8
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 64
    seed: int = 0


def preserve(dense: Decoder, recipe: Upcycle) -> Decoder:
    """A Qwen2-MoE decoder that computes what `dense` computes. Attention, norms and embeddings are shared, not copied.

    Raises ModelError where `dense` is a mixture of experts already, or narrower than the recipe's routed experts.
    """
    config = dense.config
    if config.moe is not None:
        raise ModelError(f"upcycling starts from a dense model; this one has {config.moe.num_experts} experts")
    shared_size = config.intermediate_size - recipe.moe_intermediate_size
    if shared_size < 1:
        raise ModelError(f"moe_intermediate_size {recipe.moe_intermediate_size} must be below the dense FFN's {config.intermediate_size}")
    moe = MoEConfig(recipe.num_experts, recipe.num_experts_per_tok, recipe.moe_intermediate_size, shared_size, norm_topk_prob=True)
    sparse_config = replace(config, family="qwen2_moe", qkv_bias=True, moe=moe)
    sparse = Decoder(sparse_config)
    sparse.embed, sparse.norm, sparse.lm_head = dense.embed, dense.norm, dense.lm_head
    rng = torch.Generator().manual_seed(recipe.seed)
    for new, old in zip(sparse.layers, dense.layers, strict=True):
        assert isinstance(new, Layer)
        assert isinstance(old, Layer)
        assert isinstance(old.ffn, FFN)
        new.input_norm, new.post_attention_norm = old.input_norm, old.post_attention_norm
        new.attention.o_proj = old.attention.o_proj
        for name in ("q_proj", "k_proj", "v_proj"):
            _share_projection(getattr(new.attention, name), getattr(old.attention, name))
        new.ffn = _split_ffn(old.ffn, moe, rng)
    return sparse


def _share_projection(new: nn.Linear, old: nn.Linear) -> None:
    # Qwen2-MoE has q, k and v biases; where the dense model has none, zero ones change nothing
    new.weight = old.weight
    new.bias = old.bias if old.bias is not None else nn.Parameter(old.weight.new_zeros(old.out_features))


def _split_ffn(dense: FFN, moe: MoEConfig, rng: torch.Generator) -> MoE:
    cut = moe.moe_intermediate_size
    gate, up, down = dense.gate_proj.weight.data, dense.up_proj.weight.data, dense.down_proj.weight.data
    D = gate.shape[1]
    sparse = MoE(D, moe).to(device=gate.device, dtype=gate.dtype)
    # logits of about unit variance on normalised inputs, so that tokens spread over all experts
    sparse.router.weight.data.copy_(torch.randn(moe.num_experts, D, generator=rng) / D**0.5)
    sparse.experts.gate_up_EGD.data[:] = torch.cat((gate[:cut], up[:cut]))
    sparse.experts.down_EDF.data[:] = down[:, :cut]
    sparse.shared_expert.gate_proj.weight.data[:] = gate[cut:]
    sparse.shared_expert.up_proj.weight.data[:] = up[cut:]
    sparse.shared_expert.down_proj.weight.data[:] = 2 * down[:, cut:]
    sparse.shared_expert_gate.weight.data.zero_()
    return sparse
