"""The CPU's back-end: a decoder on the compiled kernels, its weights packed, its keys and values on pages as attention reads them.

A prefill and a decode step are the same pass: no row's bits depend on how many rows are computed with it, nor on the
processor. What torch computes here are copies, comparisons and single float32 operations, which IEEE 754 fixes to the bit; its sums and
transcendental functions round differently from one vector width to another, so none of them is used.

T new tokens, P wanted ones; D hidden, F FFN hidden, E experts, K experts a token, H query heads, J key/value heads, d head_dim, r = d/2.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_lm.backends.base import Backend, Batch
from moe_lm.backends.cpu.launch import (
    TokenPlaces,
    append_kv,
    gemm,
    logsumexp,
    page_shape,
    paged_attention,
    rms_norm,
    rope_,
    rotation,
    route,
    sigmoid,
)
from moe_lm.backends.cpu.moe import routed_experts
from moe_lm.backends.cpu.pack import PackedMatrix
from moe_lm.config import MoEConfig
from moe_lm.model import FFN, Attention, Decoder, Layer, Linear, MoE, RMSNorm, inverse_frequencies, rope
from moe_lm.rope import RopeScaling

ROWS = 512  # of an FFN that are computed together: what lies between its two products stays in the cache


def _packed(linear: Linear) -> PackedMatrix:
    return PackedMatrix.of(linear.weight[None], linear.bias)


def _add_product(onto_TO: Tensor, x_TK: Tensor, matrix: PackedMatrix, row_scales_T: Tensor | None = None) -> None:
    """onto += scales * x @ matrix.T; in another precision than float32 the product is rounded to it first."""
    if onto_TO.dtype == torch.float32:
        gemm(x_TK, matrix, out=onto_TO, accumulate=True, row_scales_M=row_scales_T)
    else:
        product_TO = gemm(x_TK, matrix)
        onto_TO += product_TO if row_scales_T is None else (product_TO * row_scales_T[:, None]).to(onto_TO.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """An RMS norm; in another precision than float32 it rounds where `RMSNorm` does."""

    weight: Tensor  # float32; applied before the result is rounded
    eps: float
    offset: float
    after: Tensor | None = None  # in the model's precision; applied to the rounded result

    @classmethod
    def of(cls, module: RMSNorm) -> "Norm":
        weight = module.weight.detach()
        if weight.dtype == torch.float32 or module.offset:
            return cls(weight.float(), module.eps, module.offset)
        return cls(torch.ones(len(weight)), module.eps, 0.0, weight)

    def __call__(self, x_TD: Tensor) -> Tensor:
        """Each row of a [T, D], or each vector of the weight's size in it: [T, D]"""
        if x_TD.shape[1] != len(self.weight):
            return self(x_TD.reshape(-1, len(self.weight))).view(x_TD.shape)
        out_TD = rms_norm(x_TD.float(), self.weight, self.eps, self.offset).to(x_TD.dtype)
        return out_TD if self.after is None else out_TD * self.after


@dataclass(frozen=True, slots=True, eq=False)
class PackedAttention:
    """Queries, keys and values are one product."""

    qkv: PackedMatrix
    o: PackedMatrix
    sizes: tuple[int, int, int]
    head_dim: int
    q_norm: Norm | None
    k_norm: Norm | None

    @classmethod
    def of(cls, module: Attention) -> "PackedAttention":
        three = (module.q_proj, module.k_proj, module.v_proj)
        bias = torch.cat([one.bias for one in three]) if module.q_proj.bias is not None else None
        sizes = (module.q_proj.out_features, module.k_proj.out_features, module.v_proj.out_features)
        qkv = PackedMatrix.of(torch.cat([one.weight for one in three])[None], bias)
        q_norm, k_norm = (None if norm is None else Norm.of(norm) for norm in (module.q_norm, module.k_norm))
        return cls(qkv, _packed(module.o_proj), sizes, module.head_dim, q_norm, k_norm)

    def project(self, x_TD: Tensor, cos_Tr: Tensor, sin_Tr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values: [T, H, d], [T, J, d], [T, J, d]."""
        qkv = gemm(x_TD, self.qkv)
        if self.q_norm and self.k_norm:
            q, k, _ = qkv.split(self.sizes, dim=-1)
            q.copy_(self.q_norm(q))
            k.copy_(self.k_norm(k))
        if qkv.dtype == torch.float32:
            rope_(qkv, cos_Tr, sin_Tr, (self.sizes[0] + self.sizes[1]) // self.head_dim)
        q, k, v = (x.unflatten(-1, (-1, self.head_dim)) for x in qkv.split(self.sizes, dim=-1))
        return (q, k, v) if qkv.dtype == torch.float32 else (rope(q, cos_Tr, sin_Tr), rope(k, cos_Tr, sin_Tr), v)


@dataclass(frozen=True, slots=True, eq=False)
class PackedFFN:
    gate_up: PackedMatrix
    down: PackedMatrix

    @classmethod
    def of(cls, module: FFN) -> "PackedFFN":
        gate_up = PackedMatrix.gated(module.gate_proj.weight[None], module.up_proj.weight[None], module.activation)
        return cls(gate_up, _packed(module.down_proj))

    def add_to(self, onto_TD: Tensor, x_TD: Tensor, row_scales_T: Tensor | None = None) -> None:
        """onto += scales * down(act(gate(x)) * up(x))"""
        for begin in range(0, len(x_TD), ROWS):
            rows = slice(begin, begin + ROWS)
            hidden = gemm(x_TD[rows], self.gate_up)
            _add_product(onto_TD[rows], hidden, self.down, None if row_scales_T is None else row_scales_T[rows])


@dataclass(frozen=True, slots=True, eq=False)
class PackedMoE:
    moe: MoEConfig
    router: PackedMatrix
    gate_up: PackedMatrix
    down: PackedMatrix
    shared_expert: PackedFFN | None
    shared_expert_gate: PackedMatrix | None

    @classmethod
    def of(cls, module: MoE) -> "PackedMoE":
        gate_EFD, up_EFD = module.experts.gate_up_EGD.chunk(2, dim=1)
        return cls(
            module.moe,
            _packed(module.router),
            PackedMatrix.gated(gate_EFD, up_EFD, "silu"),
            PackedMatrix.of(module.experts.down_EDF),
            PackedFFN.of(module.shared_expert) if module.shared_expert else None,
            _packed(module.shared_expert_gate) if module.shared_expert_gate else None,
        )

    def add_to(self, onto_TD: Tensor, x_TD: Tensor) -> None:
        weights_TK, ids_TK = route(gemm(x_TD, self.router).float(), self.moe.num_experts_per_tok, self.moe.norm_topk_prob)
        out_TD = routed_experts(x_TD, weights_TK, ids_TK, self.gate_up, self.down)
        if self.shared_expert:
            gates_T = None if self.shared_expert_gate is None else sigmoid(gemm(x_TD, self.shared_expert_gate)[:, 0].float())
            self.shared_expert.add_to(out_TD, x_TD, gates_T)
        onto_TD += out_TD


@dataclass(frozen=True, slots=True, eq=False)
class PackedLayer:
    input_norm: Norm
    attention: PackedAttention
    attention_post_norm: Norm | None
    ffn_norm: Norm
    ffn: PackedFFN | PackedMoE
    ffn_post_norm: Norm | None

    @classmethod
    def of(cls, layer: Layer) -> "PackedLayer":
        ffn = PackedMoE.of(layer.ffn) if isinstance(layer.ffn, MoE) else PackedFFN.of(layer.ffn)  # type: ignore[arg-type]
        attention_post_norm, ffn_post_norm = (
            None if norm is None else Norm.of(norm) for norm in (layer.attention_post_norm, layer.ffn_post_norm)
        )
        attention, ffn_norm = PackedAttention.of(layer.attention), Norm.of(layer.ffn_norm)
        return cls(Norm.of(layer.input_norm), attention, attention_post_norm, ffn_norm, ffn, ffn_post_norm)

    def add_attention(self, x_TD: Tensor, attended_TW: Tensor) -> None:
        """The output projection of what attention read, W = H * d, added to the residual stream."""
        _add_through(self.attention_post_norm, x_TD, lambda onto_TD: _add_product(onto_TD, attended_TW, self.attention.o))

    def add_ffn(self, x_TD: Tensor) -> None:
        _add_through(self.ffn_post_norm, x_TD, lambda onto_TD: self.ffn.add_to(onto_TD, self.ffn_norm(x_TD)))


def _add_through(norm: Norm | None, onto_TD: Tensor, add: Callable[[Tensor], None]) -> None:
    """onto += norm(what `add` adds to zeros); without a norm `add` adds to it in place."""
    if norm is None:
        add(onto_TD)
    else:
        part_TD = torch.zeros_like(onto_TD)
        add(part_TD)
        onto_TD += norm(part_TD)


class CpuBackend(Backend):
    """Takes the weights out of the model, layer by layer, so that only one layer at a time is in memory twice."""

    invariant = True
    drafts = True

    @torch.no_grad()
    def __init__(self, model: Decoder):
        weight = model.embed.weight
        super().__init__(model.config, weight.device, weight.dtype)
        self.layers: list[PackedLayer] = []
        while len(model.layers):
            self.layers.append(PackedLayer.of(model.layers.pop(0)))  # type: ignore[arg-type]
        self.norm: Callable[[Tensor], Tensor] = Norm.of(model.norm)
        self.ropes = [self.config.rotary(index) for index in range(len(self.layers))]
        self.head = _packed(model.lm_head)
        # an embedding that is also the output head is kept once
        self.embedding = None if self.config.tie_word_embeddings else weight
        if self.config.tie_word_embeddings:
            del model.embed, model.lm_head

    @property
    def page_dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def page_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        J, d = self.config.num_key_value_heads, self.config.head_dim
        return (J, *page_shape("k", d)), (J, *page_shape("v", d))

    @contextmanager
    def first_layers(self, count: int) -> Iterator[None]:
        layers, norm = self.layers, self.norm
        self.layers, self.norm = layers[:count], _unchanged
        try:
            yield
        finally:
            self.layers, self.norm = layers, norm

    @torch.inference_mode()
    def forward(self, batch: Batch, wanted: Sequence[int]) -> Tensor:
        places, wanted_P = _places(batch), torch.tensor(wanted, dtype=torch.int64)
        x_TD = self._embed(torch.tensor(batch.flat))
        rotations = {rope: self._rotation(places.positions, *rope) for rope in set(self.ropes)}
        for index, layer in enumerate(self.layers):
            q_THd, k_TJd, v_TJd = layer.attention.project(layer.input_norm(x_TD), *rotations[self.ropes[index]])
            k_pages, v_pages = batch.memory.k[index], batch.memory.v[index]
            append_kv(k_TJd, v_TJd, places, k_pages, v_pages)
            out_THd = paged_attention(q_THd, places, k_pages, v_pages, self.config.window(index), self.config.attention_scale)
            if index == len(self.layers) - 1:
                x_TD, out_THd = x_TD[wanted_P], out_THd[wanted_P]
                if not wanted:  # a chunk of a prompt, of which only keys and values are needed
                    return x_TD
            layer.add_attention(x_TD, out_THd.flatten(-2))
            layer.add_ffn(x_TD)
        return self.norm(x_TD)

    @torch.inference_mode()
    def logits(self, hidden_PD: Tensor) -> Tensor:
        return gemm(hidden_PD, self.head).float()

    def logsumexp(self, logits_PV: Tensor) -> Tensor:
        return logsumexp(logits_PV)

    def _rotation(self, positions_T: Tensor, rope_theta: float, scaling: RopeScaling | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every position in the model's precision, [T, r] each."""
        inv_freq_r = inverse_frequencies(rope_theta, self.config.head_dim, scaling, self.device)
        cos_Tr, sin_Tr = rotation(positions_T, inv_freq_r)
        factor = scaling.attention_factor if scaling else 1.0
        return (cos_Tr * factor).to(self.dtype), (sin_Tr * factor).to(self.dtype)

    def _embed(self, tokens_T: Tensor) -> Tensor:
        x_TD = self.head.rows(tokens_T) if self.embedding is None else self.embedding[tokens_T]
        if self.config.scale_embeddings:  # by a number of the weights' precision, as Gemma was trained
            x_TD *= torch.tensor(self.config.hidden_size**0.5, dtype=x_TD.dtype).item()
        return x_TD


def _unchanged(x_TD: Tensor) -> Tensor:
    return x_TD


def _places(batch: Batch) -> TokenPlaces:
    most = max(map(len, batch.pages))
    table = torch.tensor([[*pages, *[0] * (most - len(pages))] for pages in batch.pages], dtype=torch.int32)
    lengths = torch.tensor([len(tokens) for tokens in batch.tokens])
    sequences_T = torch.arange(len(lengths), dtype=torch.int32).repeat_interleave(lengths)
    return TokenPlaces(torch.tensor(batch.positions, dtype=torch.int32), sequences_T, table)
