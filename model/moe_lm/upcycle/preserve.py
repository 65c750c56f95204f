"""A mixture of experts out of a dense model: what all recipes share, and the one that keeps the function exactly.

The dense FFN is a sum over its intermediate dimension. `preserve` cuts it in two: every routed expert carries the first
slice, the shared expert the second. With norm_topk_prob the routing weights sum to one, so identical experts give that slice
whatever the router says; a zero shared_expert_gate is sigmoid(0) = 0.5, so the shared down projection is doubled.
It gives real pretrained weights an exact MoE twin: an oracle for router and kernels. (Komatsuzaki et al., "Sparse
Upcycling", arXiv 2212.05055, for the idea of copying; the slices are ours.) `moe_lm.upcycle.fine_grained` has the published recipes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from moe_lm.config import ModelConfig, MoEConfig
from moe_lm.errors import ModelError
from moe_lm.model import FFN, Decoder, Layer, MoE

Fill = Callable[[MoE, FFN, torch.Generator], None]  # the experts of one layer, out of its dense FFN
Progress = Callable[[int], None]  # (layers done)


@dataclass(frozen=True, slots=True)
class Upcycle:
    """Number of routed experts, how many a token visits, their width, and the seed of the random router."""

    num_experts: int = 8
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 64
    seed: int = 0


def preserve(dense: Decoder, recipe: Upcycle, progress: Progress | None = None) -> Decoder:
    """A Qwen2-MoE decoder that computes what `dense` computes. Attention, norms and embeddings are shared, not copied.

    Raises ModelError where Qwen2-MoE cannot express `dense`, or `dense` is not wider than the recipe's routed experts.
    """
    moe = preserved(dense.config, recipe).moe
    assert moe
    return convert(dense, moe, recipe.seed, _split_ffn, progress)


def preserved(config: ModelConfig, recipe: Upcycle) -> ModelConfig:
    """The configuration of what `preserve` makes of a dense one. Raises what `preserve` raises."""
    shared_size = config.intermediate_size - recipe.moe_intermediate_size
    if shared_size < 1:
        raise ModelError(f"moe_intermediate_size {recipe.moe_intermediate_size} must be below the dense FFN's {config.intermediate_size}")
    moe = MoEConfig(recipe.num_experts, recipe.num_experts_per_tok, recipe.moe_intermediate_size, shared_size, norm_topk_prob=True)
    return sparse_config(config, moe)


def sparse_config(config: ModelConfig, moe: MoEConfig) -> ModelConfig:
    """`config` with experts for FFNs, as Qwen2-MoE. Raises ModelError where Qwen2-MoE cannot express it."""
    if config.moe is not None:
        raise ModelError(f"upcycling starts from a dense model; this one has {config.moe.num_experts} experts")
    lacking = {
        "GeGLU": config.activation != "silu",
        "norms of another form": config.norm_offset or config.post_norms,
        "scaled embeddings": config.scale_embeddings,
        "norms of queries and keys": config.qk_norm,
        "attention scores scaled otherwise": config.query_pre_attn_scalar,
        "a sliding window": config.sliding_window,
    }
    if has := next((what for what, present in lacking.items() if present), None):
        raise ModelError(f"a {config.family} model cannot become Qwen2-MoE, which lacks {has}; try llama or qwen2")
    width = moe.moe_intermediate_size
    if not 1 <= width <= config.intermediate_size:
        raise ModelError(f"moe_intermediate_size {width} must lie in 1..{config.intermediate_size}, the dense FFN's intermediate_size")
    return replace(config, family="qwen2_moe", qkv_bias=True, moe=moe)


@torch.no_grad()
def convert(dense: Decoder, moe: MoEConfig, seed: int, fill: Fill, progress: Progress | None = None) -> Decoder:
    """A Qwen2-MoE decoder around what `dense` has, one layer's experts after another: `fill` gives them their weights.

    Attention, norms and embeddings are shared, not copied; routers are random, shared_expert_gate is zero (sigmoid 0.5).
    """
    config = sparse_config(dense.config, moe)
    if not 0 <= seed < 2**63:
        raise ModelError(f"seed {seed} must lie in 0..2**63 - 1")
    sparse = Decoder(replace(config, moe=None))  # without experts: all layers' at once could exceed the memory
    sparse.config = config
    sparse.embed, sparse.norm, sparse.lm_head = dense.embed, dense.norm, dense.lm_head
    rng = torch.Generator().manual_seed(seed)
    for done, (new, old) in enumerate(zip(sparse.layers, dense.layers, strict=True), 1):
        assert isinstance(new, Layer)
        assert isinstance(old, Layer)
        assert isinstance(old.ffn, FFN)
        new.input_norm, new.ffn_norm = old.input_norm, old.ffn_norm
        new.attention.o_proj = old.attention.o_proj
        for name in ("q_proj", "k_proj", "v_proj"):
            _share_projection(getattr(new.attention, name), getattr(old.attention, name))
        new.ffn = _sparse_ffn(old.ffn, moe, fill, rng)
        if progress:
            progress(done)
    return sparse.eval()


def _share_projection(new: nn.Linear, old: nn.Linear) -> None:
    # Qwen2-MoE has q, k and v biases; where the dense model has none, zero ones change nothing
    new.weight = old.weight
    new.bias = old.bias if old.bias is not None else nn.Parameter(old.weight.new_zeros(old.out_features))


def _sparse_ffn(dense: FFN, moe: MoEConfig, fill: Fill, rng: torch.Generator) -> MoE:
    weight = dense.gate_proj.weight
    D = weight.shape[1]
    sparse = MoE(D, moe).to(device=weight.device, dtype=weight.dtype).requires_grad_(False)
    # logits of about unit variance on normalised inputs, so that tokens spread over all experts
    sparse.router.weight.copy_(torch.randn(moe.num_experts, D, generator=rng) / D**0.5)
    assert sparse.shared_expert_gate
    sparse.shared_expert_gate.weight.zero_()
    fill(sparse, dense, rng)
    return sparse


def _split_ffn(sparse: MoE, dense: FFN, rng: torch.Generator) -> None:
    cut = sparse.moe.moe_intermediate_size
    gate, up, down = dense.gate_proj.weight.data, dense.up_proj.weight.data, dense.down_proj.weight.data
    sparse.experts.gate_up_EGD[:] = torch.cat((gate[:cut], up[:cut]))
    sparse.experts.down_EDF[:] = down[:, :cut]
    assert sparse.shared_expert
    sparse.shared_expert.gate_proj.weight[:] = gate[cut:]
    sparse.shared_expert.up_proj.weight[:] = up[cut:]
    sparse.shared_expert.down_proj.weight[:] = 2 * down[:, cut:]
