"""The layers of a decoder with their weights packed, as the CPU's back-end computes them.

A dense layer in float32 is two calls (fused.py). The others, of mixtures of experts or in bfloat16, are their kernels called one by one.

T tokens; D hidden, F FFN hidden, E experts, K experts a token, H query heads, J key/value heads, d head_dim, r = d/2, W = H * d.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moe_lm.backends.cpu.fused import LayerArgument, MatrixArgument, NormArgument, attend, feed
from moe_lm.backends.cpu.launch import TokenPlaces, append_kv, gemm, paged_attention, rms_norm, rope_, route, sigmoid
from moe_lm.backends.cpu.moe import routed_experts
from moe_lm.backends.cpu.pack import PackedMatrix
from moe_lm.backends.cpu.pack_quantized import PackedBlocks
from moe_lm.config import MoEConfig
from moe_lm.model import FFN, Attention, Layer, Linear, MoE, RMSNorm, rope
from moe_lm.quant.weight import are_ordered_alike

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

    def argument(self) -> MatrixArgument:
        return MatrixArgument.of(self.matrix, self.int8)

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

    def argument(self) -> NormArgument:
        return NormArgument(self.weight.data_ptr(), self.weight.shape[0], self.eps, self.offset)

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
    """`window` tokens are attended to at most (None: all), scores multiplied by `scale`. `fused`: the layer as C++ takes it, in float32."""

    input_norm: Norm
    attention: PackedAttention
    attention_post_norm: Norm | None
    ffn_norm: Norm
    ffn: PackedFFN | PackedMoE
    ffn_post_norm: Norm | None
    window: int | None
    scale: float
    fused: LayerArgument | None = None

    @classmethod
    def of(cls, layer: Layer, int8: bool, window: int | None, scale: float) -> "PackedLayer":
        ffn = PackedMoE.of(layer.ffn, int8) if isinstance(layer.ffn, MoE) else PackedFFN.of(layer.ffn, int8)  # type: ignore[arg-type]
        attention_post_norm, ffn_post_norm = (
            None if norm is None else Norm.of(norm) for norm in (layer.attention_post_norm, layer.ffn_post_norm)
        )
        attention, ffn_norm = PackedAttention.of(layer.attention, int8), Norm.of(layer.ffn_norm)
        found = cls(Norm.of(layer.input_norm), attention, attention_post_norm, ffn_norm, ffn, ffn_post_norm, window, scale)
        return replace(found, fused=found._argument()) if layer.input_norm.weight.dtype == torch.float32 else found

    def attend(self, x_TD: Tensor, cos_Tr: Tensor, sin_Tr: Tensor, places: TokenPlaces, k_pages: Tensor, v_pages: Tensor) -> Tensor:
        """What the tokens read, [T, W]; their keys and values are on the pages then."""
        if self.fused:
            return attend(self.fused, x_TD, cos_Tr, sin_Tr, places, k_pages, v_pages)
        q_THd, k_TJd, v_TJd = self.attention.project(self.input_norm(x_TD), cos_Tr, sin_Tr)
        append_kv(k_TJd, v_TJd, places, k_pages, v_pages)
        return paged_attention(q_THd, places, k_pages, v_pages, self.window, self.scale).flatten(-2)

    def feed(self, x_TD: Tensor, attended_TW: Tensor) -> None:
        """The rest of the layer, added to x: the output projection of what the tokens read, then the FFN."""
        if self.fused and isinstance(self.ffn, PackedFFN):
            feed(self.fused, attended_TW, x_TD)
            return
        _add_through(self.attention_post_norm, x_TD, lambda onto_TD: self.attention.o.add_to(onto_TD, attended_TW))
        _add_through(self.ffn_post_norm, x_TD, lambda onto_TD: self.ffn.add_to(onto_TD, self.ffn_norm(x_TD)))

    def _argument(self) -> LayerArgument:
        attention, d = self.attention, self.attention.head_dim
        H, J = (size // d for size in attention.sizes[:2])
        found = LayerArgument(
            H=H, J=J, d=d, window=self.window or 0, scale=self.scale, qkv=attention.qkv.argument(), o=attention.o.argument()
        )
        norms = (self.input_norm, attention.q_norm, attention.k_norm, self.attention_post_norm, self.ffn_norm, self.ffn_post_norm)
        for name, norm in zip(("input", "q", "k", "attention_post", "ffn", "ffn_post"), norms, strict=True):
            if norm:
                setattr(found, name, norm.argument())
        if isinstance(self.ffn, PackedFFN):
            found.gate_up, found.down = self.ffn.gate_up.argument(), self.ffn.down.argument()
        found.check()
        return found


def _add_through(norm: Norm | None, onto_TD: Tensor, add: Callable[[Tensor], None]) -> None:
    """onto += norm(what `add` adds to zeros); without a norm `add` adds to it in place."""
    if norm is None:
        add(onto_TD)
    else:
        part_TD = torch.zeros_like(onto_TD)
        add(part_TD)
        onto_TD += norm(part_TD)
