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
from moe_lm.backends.cpu.pack_quantized import PackedBlocks
from moe_lm.backends.cpu.shared import kept
from moe_lm.config import MoEConfig
from moe_lm.model import FFN, Attention, Decoder, Layer, Linear, MoE, RMSNorm, inverse_frequencies, rope
from moe_lm.quant.weight import are_ordered_alike
from moe_lm.rope import RopeScaling

ROWS = 512  # of an FFN that are computed together: what lies between its two products stays in the cache


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A matrix to multiply with; `int8` as in `gemm`."""

    matrix: PackedMatrix | PackedBlocks
    int8: bool

    @classmethod
    def of(cls, linears: Sequence[Linear], int8: bool) -> "Product":
        """Linears of the same inputs, their outputs side by side."""
        bias = None if linears[0].bias is None else torch.cat([one.bias for one in linears])
        blocks = [one.quantized for one in linears if one.quantized]
        if len(blocks) == len(linears) and are_ordered_alike(blocks):
            return cls(PackedBlocks.of(blocks, bias), int8)
        weights = [_expanded(one) for one in linears]
        return cls(PackedMatrix.of(torch.cat(weights, dim=1) if len(weights) > 1 else weights[0], bias), int8)

    @classmethod
    def gated(cls, gate: Linear, up: Linear, activation: str, int8: bool) -> "Product":
        if gate.quantized and up.quantized and are_ordered_alike((gate.quantized, up.quantized)):
            return cls(PackedBlocks.gated(gate.quantized, up.quantized, activation), int8)
        return cls(PackedMatrix.gated(_expanded(gate), _expanded(up), activation), int8)

    def __call__(self, x_TK: Tensor) -> Tensor:
        """[T, K] -> [T, O]"""
        return gemm(x_TK, self.matrix, int8=self.int8)

    def add_to(self, onto_TO: Tensor, x_TK: Tensor, row_scales_T: Tensor | None = None) -> None:
        """onto += scales * product; in another precision than float32 the product is rounded to it first."""
        if onto_TO.dtype == torch.float32:
            gemm(x_TK, self.matrix, out=onto_TO, accumulate=True, row_scales_M=row_scales_T, int8=self.int8)
        else:
            product_TO = self(x_TK)
            onto_TO += product_TO if row_scales_T is None else (product_TO * row_scales_T[:, None]).to(onto_TO.dtype)


def _expanded(linear: Linear) -> Tensor:
    """[1, O, K]"""
    return linear.quantized.dequantized() if linear.quantized else linear.weight[None]


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
        if x_TD.shape[1] != self.weight.shape[0]:
            return self(x_TD.reshape(-1, self.weight.shape[0])).view(x_TD.shape)
        out_TD = rms_norm(x_TD.float(), self.weight, self.eps, self.offset).to(x_TD.dtype)
        return out_TD if self.after is None else out_TD * self.after


@dataclass(frozen=True, slots=True, eq=False)
class PackedAttention:
    """Queries, keys and values are one product."""

    qkv: Product
    o: Product
    sizes: tuple[int, int, int]
    head_dim: int
    q_norm: Norm | None
    k_norm: Norm | None

    @classmethod
    def of(cls, module: Attention, int8: bool) -> "PackedAttention":
        three = (module.q_proj, module.k_proj, module.v_proj)
        sizes = (module.q_proj.out_features, module.k_proj.out_features, module.v_proj.out_features)
        q_norm, k_norm = (None if norm is None else Norm.of(norm) for norm in (module.q_norm, module.k_norm))
        return cls(Product.of(three, int8), Product.of([module.o_proj], int8), sizes, module.head_dim, q_norm, k_norm)

    def project(self, x_TD: Tensor, cos_Tr: Tensor, sin_Tr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values: [T, H, d], [T, J, d], [T, J, d]."""
        qkv = self.qkv(x_TD)
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
    gate_up: Product
    down: Product

    @classmethod
    def of(cls, module: FFN, int8: bool) -> "PackedFFN":
        gate_up = Product.gated(module.gate_proj, module.up_proj, module.activation, int8)
        return cls(gate_up, Product.of([module.down_proj], int8))

    def add_to(self, onto_TD: Tensor, x_TD: Tensor, row_scales_T: Tensor | None = None) -> None:
        """onto += scales * down(act(gate(x)) * up(x))"""
        for begin in range(0, len(x_TD), ROWS):
            rows = slice(begin, begin + ROWS)
            self.down.add_to(onto_TD[rows], self.gate_up(x_TD[rows]), None if row_scales_T is None else row_scales_T[rows])


@dataclass(frozen=True, slots=True, eq=False)
class PackedMoE:
    moe: MoEConfig
    router: Product
    gate_up: Product
    down: Product
    shared_expert: PackedFFN | None
    shared_expert_gate: Product | None

    @classmethod
    def of(cls, module: MoE, int8: bool) -> "PackedMoE":
        experts = module.experts
        if experts.gate_up_quantized:
            gate_up: PackedMatrix | PackedBlocks = PackedBlocks.gated(*experts.gate_up_quantized, "silu")
        else:
            gate_EFD, up_EFD = experts.gate_up_EGD.chunk(2, dim=1)
            gate_up = PackedMatrix.gated(gate_EFD, up_EFD, "silu")
        down = PackedBlocks.of(experts.down_quantized) if experts.down_quantized else PackedMatrix.of(experts.down_EDF)
        return cls(
            module.moe,
            Product.of([module.router], int8),
            Product(gate_up, int8),
            Product(down, int8),
            PackedFFN.of(module.shared_expert, int8) if module.shared_expert else None,
            Product.of([module.shared_expert_gate], int8) if module.shared_expert_gate else None,
        )

    def add_to(self, onto_TD: Tensor, x_TD: Tensor) -> None:
        weights_TK, ids_TK = route(self.router(x_TD).float(), self.moe.num_experts_per_tok, self.moe.norm_topk_prob)
        out_TD = routed_experts(x_TD, weights_TK, ids_TK, self.gate_up.matrix, self.down.matrix, self.gate_up.int8)
        if self.shared_expert:
            gates_T = None if self.shared_expert_gate is None else sigmoid(self.shared_expert_gate(x_TD)[:, 0].float())
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
    def of(cls, layer: Layer, int8: bool) -> "PackedLayer":
        ffn = PackedMoE.of(layer.ffn, int8) if isinstance(layer.ffn, MoE) else PackedFFN.of(layer.ffn, int8)  # type: ignore[arg-type]
        attention_post_norm, ffn_post_norm = (
            None if norm is None else Norm.of(norm) for norm in (layer.attention_post_norm, layer.ffn_post_norm)
        )
        attention, ffn_norm = PackedAttention.of(layer.attention, int8), Norm.of(layer.ffn_norm)
        return cls(Norm.of(layer.input_norm), attention, attention_post_norm, ffn_norm, ffn, ffn_post_norm)

    def add_attention(self, x_TD: Tensor, attended_TW: Tensor) -> None:
        """The output projection of what attention read, W = H * d, added to the residual stream."""
        _add_through(self.attention_post_norm, x_TD, lambda onto_TD: self.attention.o.add_to(onto_TD, attended_TW))

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
    """Takes the weights out of the model, matrix by matrix or layer by layer, so that only one at a time is in memory twice.

    Quantised weights give the bits of the float32 numbers that they stand for, or, with `int8`, are multiplied in 8-bit integers.
    """

    invariant = True
    drafts = True
    quantized = True

    @torch.no_grad()
    def __init__(self, model: Decoder, int8: bool = False):
        super().__init__(model.config, model.norm.weight.device, model.norm.weight.dtype)
        # the largest matrices first: each is in memory twice for a while, and now there is little else
        self.head = Product.of([model.lm_head], int8)
        self.embedding: Tensor | PackedMatrix | PackedBlocks
        if self.config.tie_word_embeddings:
            self.embedding = self.head.matrix  # it is kept once
        elif model.embed.quantized:
            self.embedding = PackedBlocks.of(model.embed.quantized)
        else:
            self.embedding = kept(model.embed.weight.detach())
        del model.embed, model.lm_head
        self.layers: list[PackedLayer] = []
        while len(model.layers):
            self.layers.append(PackedLayer.of(model.layers.pop(0), int8))  # type: ignore[arg-type]
        self.norm: Callable[[Tensor], Tensor] = Norm.of(model.norm)
        self.ropes = [self.config.rotary(index) for index in range(len(self.layers))]

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
        return self.head(hidden_PD).float()

    def logsumexp(self, logits_PV: Tensor) -> Tensor:
        return logsumexp(logits_PV)

    def _rotation(self, positions_T: Tensor, rope_theta: float, scaling: RopeScaling | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every position in the model's precision, [T, r] each."""
        inv_freq_r = inverse_frequencies(rope_theta, self.config.head_dim, scaling, self.device)
        cos_Tr, sin_Tr = rotation(positions_T, inv_freq_r)
        factor = scaling.attention_factor if scaling else 1.0
        return (cos_Tr * factor).to(self.dtype), (sin_Tr * factor).to(self.dtype)

    def _embed(self, tokens_T: Tensor) -> Tensor:
        x_TD = self.embedding[tokens_T] if isinstance(self.embedding, Tensor) else self.embedding.rows(tokens_T)
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
