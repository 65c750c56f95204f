"""The decoder, one for every family; a dense FFN is the case without a router.

T tokens of all sequences, laid end to end; D hidden, H query heads, J key/value heads, d head_dim, r = d/2,
F FFN hidden, E experts, K experts a token, V vocabulary.

The model knows nothing of batches or caches: attention over the past is the caller's `attend`
(see `moe_lm.engine.batch`), the expert kernel is the seat in `moe_lm.backends.experts`.
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_lm.backends import experts_torch
from moe_lm.backends.cpu import launch
from moe_lm.backends.cpu.moe import routed_experts
from moe_lm.backends.cpu.pack import PackedMatrix
from moe_lm.backends.experts import ExpertKernel, reference, route
from moe_lm.backends.tiles import MAX_ROWS, columns, is_prefill, linear, pad_rows, row_tiles, sigmoid
from moe_lm.config import ModelConfig, MoEConfig

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]  # (layer, q_THd, k_TJd, v_TJd) -> out_THd


class Linear(nn.Linear):
    packed: PackedMatrix | None = None

    def forward(self, x_TD: Tensor, onto: Tensor | None = None, factors_T: Tensor | None = None) -> Tensor:
        """With `onto`, added to it in place, each row times its factor where there are any."""
        if self.packed and onto is not None and onto.dtype == torch.float32:
            return launch.gemm(x_TD, self.packed, out=onto, accumulate=True, row_scales_M=factors_T)
        out = launch.gemm(x_TD, self.packed) if self.packed else linear(x_TD, self.weight, self.bias)
        return out if onto is None else add(onto, out, factors_T)

    def pack(self) -> None:
        self.packed = PackedMatrix.of(self.weight[None], self.bias)
        free(self)

    def reset_parameters(self) -> None:
        """Leave the memory untouched: a checkpoint fills it. (Building on torch's meta device costs 2 s of imports.)"""


def add(onto: Tensor, out_TD: Tensor, factors_T: Tensor | None) -> Tensor:
    return onto.add_(out_TD) if factors_T is None else onto.addcmul_(factors_T[:, None], out_TD)


def free(module: nn.Module) -> None:
    """Give up parameters that a kernel has packed for itself; their precision and device can still be asked for."""
    for name, parameter in list(module.named_parameters()):
        owner, _, own_name = name.rpartition(".")
        setattr(module.get_submodule(owner), own_name, nn.Parameter(parameter.new_empty(0), requires_grad=False))


class Embedding(nn.Embedding):
    packed: PackedMatrix | None = None  # the output head's, where they are the same weights

    def forward(self, ids_T: Tensor) -> Tensor:
        return self.packed.rows(ids_T) if self.packed else super().forward(ids_T)

    def reset_parameters(self) -> None:
        """As for Linear."""


class RMSNorm(nn.Module):
    packed = False

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.hidden_size))
        self.eps, self.offset = config.rms_norm_eps, config.norm_offset

    def forward(self, x: Tensor) -> Tensor:
        if self.packed and x.dtype == torch.float32:
            return launch.rms_norm(x, self.weight, self.eps, self.offset)
        x32 = x.float()
        x32 = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        if self.offset:  # Gemma, which multiplies before it rounds
            return x32.mul_(self.offset + self.weight.float()).to(x.dtype)
        return x32.to(x.dtype).mul_(self.weight)


def rope(x_THd: Tensor, cos_Tr: Tensor, sin_Tr: Tensor) -> Tensor:
    """Rotary embedding, half-split layout (GPT-NeoX): dimension i turns with dimension i + r, r = d/2."""
    lower, upper = x_THd.chunk(2, dim=-1)
    cos, sin = cos_Tr[:, None], sin_Tr[:, None]
    return torch.cat((torch.addcmul(lower * cos, upper, sin, value=-1), torch.addcmul(upper * cos, lower, sin)), dim=-1)


class Attention(nn.Module):
    packed: PackedMatrix | None = None

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        q_size, kv_size = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.sizes = (q_size, kv_size, kv_size)
        self.q_proj = Linear(config.hidden_size, q_size, bias=config.qkv_bias)
        self.k_proj = Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.v_proj = Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.o_proj = Linear(q_size, config.hidden_size, bias=False)

    def forward(self, x_TD: Tensor, cos_Tr: Tensor, sin_Tr: Tensor, attend: Attend, wanted_P: Tensor | None, onto: Tensor) -> Tensor:
        """Added to `onto` in place."""
        if self.packed:
            qkv = launch.gemm(x_TD, self.packed)
            q, k, v = (x.unflatten(-1, (-1, self.head_dim)) for x in qkv.split(self.sizes, dim=-1))
        else:
            q, k, v = (project(x_TD).unflatten(-1, (-1, self.head_dim)) for project in (self.q_proj, self.k_proj, self.v_proj))
        if self.packed and x_TD.dtype == torch.float32:  # in place: q and k are views
            launch.rope_(qkv, cos_Tr, sin_Tr, (self.sizes[0] + self.sizes[1]) // self.head_dim)
        else:
            q, k = rope(q, cos_Tr, sin_Tr), rope(k, cos_Tr, sin_Tr)
        out_THd = attend(self.layer, q, k, v)
        return self.o_proj((out_THd if wanted_P is None else out_THd[wanted_P]).flatten(-2), onto)

    def pack(self) -> None:
        """Queries, keys and values become one product."""
        three = (self.q_proj, self.k_proj, self.v_proj)
        bias = torch.cat([one.bias for one in three]) if self.q_proj.bias is not None else None
        self.packed = PackedMatrix.of(torch.cat([one.weight for one in three])[None], bias)
        for one in three:
            free(one)
        self.o_proj.pack()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": partial(F.silu, inplace=True),
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


class FFN(nn.Module):
    """SwiGLU or GeGLU: down(act(gate(x)) * up(x)). The dense layer, and the shared expert."""

    packed: PackedMatrix | None = None  # gate and up

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str = "silu"):
        super().__init__()
        self.activation, self.act = activation, ACTIVATIONS[activation]
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=False)

    def pack(self) -> None:
        self.packed = PackedMatrix.gated(self.gate_proj.weight[None], self.up_proj.weight[None], self.activation)
        free(self.gate_proj)
        free(self.up_proj)
        self.down_proj.pack()

    def forward(self, x_TD: Tensor, onto: Tensor | None = None, factors_T: Tensor | None = None) -> Tensor:
        """With `onto`, added to it in place, each row times its factor where there are any."""
        onto = torch.zeros_like(x_TD) if onto is None else onto
        # some rows at a time: what lies between the products stays in the CPU's cache
        if not self.packed:
            return add(onto, torch.cat([self._tile(x) for x in row_tiles(x_TD)]), factors_T)
        for begin in range(0, len(x_TD), 512):
            rows = slice(begin, begin + 512)
            self.down_proj(launch.gemm(x_TD[rows], self.packed), onto[rows], None if factors_T is None else factors_T[rows])
        return onto

    def _tile(self, x: Tensor) -> Tensor:
        if is_prefill(len(x)) or x.device.type != "cpu":
            return self.down_proj(self.act(self.gate_proj(x)).mul_(self.up_proj(x)))
        h_FN = self.act(columns(self.gate_proj.weight, x.t())).mul_(columns(self.up_proj.weight, x.t()))
        return columns(self.down_proj.weight, h_FN).t()


class Experts(nn.Module):
    """The routed experts' weights, stacked as the kernels want them: gate rows above up rows."""

    def __init__(self, hidden_size: int, moe: MoEConfig):
        super().__init__()
        self.gate_up_EGD = nn.Parameter(torch.empty(moe.num_experts, 2 * moe.moe_intermediate_size, hidden_size))
        self.down_EDF = nn.Parameter(torch.empty(moe.num_experts, hidden_size, moe.moe_intermediate_size))


class MoE(nn.Module):
    """Router, routed experts, and where the family has one a shared expert that every token visits, gated or not."""

    def __init__(self, hidden_size: int, moe: MoEConfig):
        super().__init__()
        self.moe = moe
        self.kernel: ExpertKernel = experts_torch.routed_experts
        self.packed: tuple[PackedMatrix, PackedMatrix] | None = None  # gate and up, down
        self.whole: Callable[[Tensor], Tensor] | None = None  # a tenant that takes all of the layer but the router's product
        self.router = Linear(hidden_size, moe.num_experts, bias=False)
        self.experts = Experts(hidden_size, moe)
        self.shared_expert = FFN(hidden_size, moe.shared_expert_intermediate_size) if moe.shared_expert_intermediate_size else None
        self.shared_expert_gate = Linear(hidden_size, 1, bias=False) if self.shared_expert and moe.shared_expert_gate else None

    def use(self, kernel: str) -> None:
        """Take another tenant of `experts.KERNELS` but `cpu`, as `choose` allowed it; `triton` packs the weights as they are now."""
        if kernel == "triton":
            from moe_lm.backends.cuda.experts_triton import bind

            self.whole = bind(self)
        else:
            self.kernel, self.whole = {"torch": experts_torch.routed_experts, "reference": reference}[kernel], None

    def pack(self) -> None:
        experts = self.experts
        gate_EFD, up_EFD = experts.gate_up_EGD.chunk(2, dim=1)
        self.packed = PackedMatrix.gated(gate_EFD, up_EFD, "silu"), PackedMatrix.of(experts.down_EDF)
        free(experts)
        for module in (self.router, self.shared_expert, self.shared_expert_gate):
            if module is not None:
                module.pack()

    def forward(self, x_TD: Tensor, onto: Tensor | None = None) -> Tensor:
        """With `onto`, added to it in place."""
        out_TD = self._output(x_TD)
        return out_TD if onto is None else onto.add_(out_TD)

    def _output(self, x_TD: Tensor) -> Tensor:
        if not len(x_TD):  # the last layer of a chunk of a prompt, after which nothing is wanted
            return x_TD
        if self.whole is not None:
            return self.whole(x_TD)
        weights_TK, ids_TK = route(self.router(x_TD), self.moe.num_experts_per_tok, self.moe.norm_topk_prob)
        if self.packed:
            routed_TD = routed_experts(x_TD, weights_TK, ids_TK, *self.packed)
        else:
            routed_TD = self.kernel(x_TD, weights_TK, ids_TK, self.experts.gate_up_EGD, self.experts.down_EDF)
        if self.shared_expert is None:
            return routed_TD
        gates_T = None if self.shared_expert_gate is None else sigmoid(self.shared_expert_gate(x_TD))[:, 0]
        return self.shared_expert(x_TD, routed_TD, gates_T)


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, index: int):
        super().__init__()
        self.input_norm = RMSNorm(config)
        self.attention = Attention(config, index)
        self.post_attention_norm = RMSNorm(config)
        self.ffn: MoE | FFN
        if config.moe and config.is_sparse(index):
            self.ffn = MoE(config.hidden_size, config.moe)
        else:
            self.ffn = FFN(config.hidden_size, config.intermediate_size, config.activation)

    def forward(self, x_TD: Tensor, cos_Tr: Tensor, sin_Tr: Tensor, attend: Attend, wanted_P: Tensor | None = None) -> Tensor:
        """[T, D] -> [T, D], in place; with `wanted_P` (the last layer's) only those rows come out, [P, D]."""
        x = x_TD if wanted_P is None else x_TD[wanted_P]
        self.attention(self.input_norm(x_TD), cos_Tr, sin_Tr, attend, wanted_P, x)
        return self.ffn(self.post_attention_norm(x), x)

    def pack(self) -> None:
        self.attention.pack()
        self.ffn.pack()


class Decoder(nn.Module):
    """Token ids and their positions in, final hidden states out; `logits` is apart, so that only scored positions pay for it."""

    packed = False  # by `pack`

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed.weight

    def forward(self, tokens_T: Tensor, positions_T: Tensor, attend: Attend, wanted_P: Tensor) -> Tensor:
        """[T] ids and positions -> [P, D] hidden states after the final norm, of the rows `wanted_P`.

        Packed, T and P may be anything; else they are multiples of `tiles.PREFILL_ROWS` in a prefill, of `tiles.ROWS` in a decode step.
        """
        # torch takes 16 or 32 sines at a time and the rest one by one, which rounds otherwise: no token's may be a rest
        cos_Tr, sin_Tr = (x[: len(tokens_T)] for x in self._rotation(pad_rows(positions_T)))
        x_TD = self.embed(tokens_T)
        if self.config.scale_embeddings:  # by a number of the weights' precision, as Gemma was trained
            x_TD *= torch.tensor(self.config.hidden_size**0.5, dtype=x_TD.dtype).item()
        *others, last = self.layers
        for layer in others:
            x_TD = layer(x_TD, cos_Tr, sin_Tr, attend)
        return self.norm(last(x_TD, cos_Tr, sin_Tr, attend, wanted_P))

    def use(self, kernel: str) -> None:
        """Run on this kernel: see `backends.experts`. `cpu` takes all products and attention, and gives up the weights as they were."""
        if kernel == "cpu":
            return self.pack()
        for module in self.modules():
            if isinstance(module, MoE):
                module.use(kernel)

    @torch.no_grad()
    def pack(self) -> None:
        """For `moe_lm.backends.cpu`: layer by layer, so that not much of the model is there twice."""
        for layer in self.layers:
            cast(Layer, layer).pack()
        for module in self.modules():
            if isinstance(module, RMSNorm):
                module.packed = True
        self.lm_head.pack()
        if self.config.tie_word_embeddings:
            self.embed.packed = self.lm_head.packed
            free(self.embed)
        self.packed = True

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """[T, D] -> [T, V] in float32: in bf16 near-ties between answer letters would go to the earlier letter."""
        if self.packed:
            return self.lm_head(hidden_TD).float()
        rows = pad_rows(hidden_TD).split(MAX_ROWS)  # few, in a prefill too: only what is scored
        return torch.cat([self.lm_head(some) for some in rows])[: len(hidden_TD)].float()

    def _rotation(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        half = torch.arange(0, self.config.head_dim, 2, device=positions_T.device, dtype=torch.float32)
        inv_freq = 1.0 / (self.config.rope_theta ** (half / self.config.head_dim))
        angles_Tr = torch.outer(positions_T.float(), inv_freq)
        dtype = self.embed.weight.dtype
        return angles_Tr.cos().to(dtype), angles_Tr.sin().to(dtype)
