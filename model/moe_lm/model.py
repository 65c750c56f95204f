"""The decoder in plain torch, one for every family; a dense FFN is the case without a router.

It is the reference for correctness and has no kernels, caches or batches. A back-end (see `moe_lm.backends`) is built from it, and
attention over the past is the caller's `attend`. Quantised weights it holds for a back-end, and computes nothing with them.

T tokens of all sequences, laid end to end; D hidden, H query heads, J key/value heads, d head_dim, r = d/2,
F FFN hidden, E experts, K experts a token, V vocabulary; P the rows needed after the last layer.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_lm.config import ModelConfig, MoEConfig
from moe_lm.quant.weight import Quantized
from moe_lm.rope import RopeScaling, frequencies

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]  # (layer, q_THd, k_TJd, v_TJd) -> out_THd


class Linear(nn.Linear):
    quantized: Quantized | None = None  # the weight where a file's blocks are kept as they are; `weight` is then None

    def reset_parameters(self) -> None:
        """Leave the memory uninitialised: a checkpoint fills it."""


class Embedding(nn.Embedding):
    quantized: Quantized | None = None  # as of a Linear

    def reset_parameters(self) -> None:
        """As for Linear."""


class RMSNorm(nn.Module):
    def __init__(self, size: int, config: ModelConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps, self.offset = config.rms_norm_eps, config.norm_offset

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        x32 = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        if self.offset:  # Gemma multiplies before it rounds
            return (x32 * (self.offset + self.weight.float())).to(x.dtype)
        return x32.to(x.dtype) * self.weight


@lru_cache
def inverse_frequencies(rope_theta: float, head_dim: int, scaling: RopeScaling | None, device: torch.device) -> Tensor:
    """The rotary embedding's angle per position, [r] float32: computed in float64 and rounded once, so it is equal on every processor."""
    return torch.tensor(frequencies(rope_theta, head_dim, scaling), device=device)


def rope(x_THd: Tensor, cos_Tr: Tensor, sin_Tr: Tensor) -> Tensor:
    """Rotary embedding, half-split layout (GPT-NeoX): dimension i is rotated with dimension i + r, r = d/2."""
    lower, upper = x_THd.chunk(2, dim=-1)
    cos, sin = cos_Tr[:, None], sin_Tr[:, None]
    return torch.cat((lower * cos - upper * sin, upper * cos + lower * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        q_size, kv_size = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, q_size, bias=config.qkv_bias)
        self.k_proj = Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.v_proj = Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.o_proj = Linear(q_size, config.hidden_size, bias=False)
        self.q_norm = self.k_norm = None
        if config.qk_norm:
            self.q_norm, self.k_norm = (
                RMSNorm(config.head_dim if config.qk_norm == "head" else size, config) for size in (q_size, kv_size)
            )

    def forward(self, x_TD: Tensor, cos_Tr: Tensor, sin_Tr: Tensor, attend: Attend, wanted_P: Tensor | None) -> Tensor:
        """[T, D] -> [T, D], or the rows `wanted_P` of it."""
        q_THd = self._heads(self.q_proj(x_TD), self.q_norm)
        k_TJd = self._heads(self.k_proj(x_TD), self.k_norm)
        v_TJd = self._heads(self.v_proj(x_TD))
        out_THd = attend(self.layer, rope(q_THd, cos_Tr, sin_Tr), rope(k_TJd, cos_Tr, sin_Tr), v_TJd)
        return self.o_proj((out_THd if wanted_P is None else out_THd[wanted_P]).flatten(-2))

    def _heads(self, x: Tensor, norm: RMSNorm | None = None) -> Tensor:
        """[T, H d] -> [T, H, d]; the norm is over each head, or over all of them at once."""
        if norm is not None:
            x = norm(x.unflatten(-1, (-1, len(norm.weight)))).flatten(-2)
        return x.unflatten(-1, (-1, self.head_dim))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu_tanh": partial(F.gelu, approximate="tanh")}


class FFN(nn.Module):
    """SwiGLU or GeGLU: down(act(gate(x)) * up(x)). The dense layer, and the shared expert."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str = "silu"):
        super().__init__()
        self.activation = activation
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down_proj(ACTIVATIONS[self.activation](self.gate_proj(x_TD)) * self.up_proj(x_TD))


def route(router_logits_TE: Tensor, num_experts_per_tok: int, norm_topk_prob: bool) -> tuple[Tensor, Tensor]:
    """Softmax in float32, then the top K, ties to the lowest expert. Returns float32 weights and int64 ids, both [T, K]."""
    probs_TE = torch.softmax(router_logits_TE.float(), dim=-1)
    # a stable descending sort keeps the lower index first among equals; torch.topk makes no such promise
    ordered_TE, ids_TE = torch.sort(probs_TE, dim=-1, descending=True, stable=True)
    weights_TK, ids_TK = ordered_TE[:, :num_experts_per_tok], ids_TE[:, :num_experts_per_tok]
    if norm_topk_prob:
        weights_TK = weights_TK / weights_TK.sum(dim=-1, keepdim=True)
    return weights_TK, ids_TK


def routed_experts(x_TD: Tensor, topk_weights_TK: Tensor, topk_ids_TK: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
    """The weighted sum of each token's experts, one expert at a time over its tokens; G = 2F, gate rows first. [T, D]"""
    out_TD = torch.zeros_like(x_TD)
    for expert in range(len(down_EDF)):
        tokens_N, choices_N = torch.where(topk_ids_TK == expert)
        gate_NF, up_NF = (x_TD[tokens_N] @ gate_up_EGD[expert].t()).chunk(2, dim=-1)
        y_ND = (F.silu(gate_NF) * up_NF) @ down_EDF[expert].t()
        out_TD.index_add_(0, tokens_N, y_ND * topk_weights_TK[tokens_N, choices_N, None].to(x_TD.dtype))
    return out_TD


class Experts(nn.Module):
    """The routed experts' weights, stacked as the kernels want them: gate rows above up rows."""

    gate_up_quantized: tuple[Quantized, Quantized] | None = None  # as of a Linear
    down_quantized: Quantized | None = None

    def __init__(self, hidden_size: int, moe: MoEConfig):
        super().__init__()
        self.gate_up_EGD = nn.Parameter(torch.empty(moe.num_experts, 2 * moe.moe_intermediate_size, hidden_size))
        self.down_EDF = nn.Parameter(torch.empty(moe.num_experts, hidden_size, moe.moe_intermediate_size))


class MoE(nn.Module):
    """Router, routed experts, and in some families a shared expert for every token, gated or not."""

    def __init__(self, hidden_size: int, moe: MoEConfig):
        super().__init__()
        self.moe = moe
        self.router = Linear(hidden_size, moe.num_experts, bias=False)
        self.experts = Experts(hidden_size, moe)
        self.shared_expert = FFN(hidden_size, moe.shared_expert_intermediate_size) if moe.shared_expert_intermediate_size else None
        self.shared_expert_gate = Linear(hidden_size, 1, bias=False) if self.shared_expert and moe.shared_expert_gate else None

    def forward(self, x_TD: Tensor) -> Tensor:
        weights_TK, ids_TK = route(self.router(x_TD), self.moe.num_experts_per_tok, self.moe.norm_topk_prob)
        out_TD = routed_experts(x_TD, weights_TK, ids_TK, self.experts.gate_up_EGD, self.experts.down_EDF)
        if self.shared_expert is None:
            return out_TD
        shared_TD = self.shared_expert(x_TD)
        return out_TD + (shared_TD if self.shared_expert_gate is None else torch.sigmoid(self.shared_expert_gate(x_TD)) * shared_TD)


class Layer(nn.Module):
    ffn: nn.Module  # a MoE or an FFN; a back-end may replace it

    def __init__(self, config: ModelConfig, index: int):
        super().__init__()
        self.input_norm = RMSNorm(config.hidden_size, config)
        self.attention = Attention(config, index)
        self.ffn_norm = RMSNorm(config.hidden_size, config)
        self.attention_post_norm = self.ffn_post_norm = None
        if config.post_norms:
            self.attention_post_norm, self.ffn_post_norm = (RMSNorm(config.hidden_size, config) for _ in range(2))
        if config.moe and config.is_sparse(index):
            self.ffn = MoE(config.hidden_size, config.moe)
        else:
            self.ffn = FFN(config.hidden_size, config.intermediate_size, config.activation)

    def forward(self, x_TD: Tensor, cos_Tr: Tensor, sin_Tr: Tensor, attend: Attend, wanted_P: Tensor | None = None) -> Tensor:
        """[T, D] -> [T, D]; with `wanted_P` (the last layer's) only those rows, [P, D]."""
        attended = self.attention(self.input_norm(x_TD), cos_Tr, sin_Tr, attend, wanted_P)
        if self.attention_post_norm:
            attended = self.attention_post_norm(attended)
        x = (x_TD if wanted_P is None else x_TD[wanted_P]) + attended
        out = self.ffn(self.ffn_norm(x))
        return x + (self.ffn_post_norm(out) if self.ffn_post_norm else out)


class Decoder(nn.Module):
    """Token ids and their positions in, final hidden states out; `logits` is separate, so that only scored positions compute it."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.tie()

    def tie(self) -> None:
        """Make the embedding the output head, too."""
        self.lm_head.weight, self.lm_head.quantized = self.embed.weight, self.embed.quantized

    def forward(self, tokens_T: Tensor, positions_T: Tensor, attend: Attend, wanted_P: Tensor) -> Tensor:
        """[T] ids and positions -> [P, D] hidden states after the final norm, of the rows `wanted_P`."""
        x_TD = self.embed(tokens_T)
        if self.config.scale_embeddings:  # by a factor in the weights' precision, as Gemma was trained
            x_TD = x_TD * torch.tensor(self.config.hidden_size**0.5, dtype=x_TD.dtype).item()
        ropes = [self.config.rotary(index) for index in range(len(self.layers))]
        rotations = {rope: self._rotation(positions_T, *rope) for rope in set(ropes)}
        for index, (layer, rope) in enumerate(zip(self.layers, ropes, strict=True)):
            x_TD = layer(x_TD, *rotations[rope], attend, wanted_P if index == len(ropes) - 1 else None)
        return self.norm(x_TD)

    def _rotation(self, positions_T: Tensor, rope_theta: float, scaling: RopeScaling | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every position in the weights' precision, [T, r] each."""
        inv_freq_r = inverse_frequencies(rope_theta, self.config.head_dim, scaling, positions_T.device)
        angles_Tr, factor = torch.outer(positions_T.float(), inv_freq_r), scaling.attention_factor if scaling else 1.0
        dtype = self.embed.weight.dtype
        return (angles_Tr.cos() * factor).to(dtype), (angles_Tr.sin() * factor).to(dtype)

    def logits(self, hidden_PD: Tensor) -> Tensor:
        """[P, D] -> [P, V] in float32: in bf16 near-ties between answer letters would go to the earlier letter."""
        return self.lm_head(hidden_PD).float()
