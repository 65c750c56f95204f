"""Fine-grained experts cut out of a dense FFN and partly re-initialised: where the training of a mixture of experts begins.

E routed experts, f their hidden size, F the dense FFN's, D hidden.

Both recipes copy the FFN, shuffle the copy along its intermediate dimension and cut experts of any width out of it. What
belongs to one intermediate index (gate row, up row, down column) stays together. Where a copy ends inside an expert, the
next one goes on. Then `noise`, a share of every expert's parameters, is drawn anew.

`qwen`: the Qwen1.5-MoE blog, and the Qwen2 report (arXiv 2407.10671, section 2.2.2) for a later model.
  Theirs: ceil(E f / F) copies, each shuffled, one run of experts through all of them, the remainder dropped; half of each
  expert's parameters re-initialised at random; norm_topk_prob false (Qwen1.5-MoE's config.json).
  Ours, since they don't say: single parameters are chosen, independently; they are redrawn from N(0, 0.02), the
  initializer_range of Qwen1.5-MoE's config.json, because that is how its training would have begun.

`drop`: Drop-Upcycling (Nakamura et al., ICLR 2025, arXiv 2502.19261, and its authors' conversion script).
  Theirs: each expert is a shuffled copy of its own; of each of its three matrices int(noise f) intermediate indices, chosen
  for that matrix alone, are redrawn from a normal distribution with the mean and the standard deviation of what they replace;
  the routing weights of a token's experts sum to one (they write Mixtral).
  Ours: their experts are as wide as the FFN (f = F); a narrower one keeps the first f indices of its shuffled copy.

Of both, ours: the shared expert is `shared` experts in one (Qwen1.5-MoE: 5632 = 4 x 1408, wider than the FFN's 5504), cut and
redrawn like the others, out of copies of its own. Its gate starts at zero, routers at N(0, 1 / D), which is 0.022 for D = 2048.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from moe_lm.config import ModelConfig, MoEConfig
from moe_lm.errors import ModelError
from moe_lm.model import FFN, Decoder, MoE
from moe_lm.upcycle.preserve import Progress, convert

INITIALIZER_RANGE = 0.02


def one_run(experts: int, width: int, F: int, rng: torch.Generator) -> Tensor:
    """[experts, width] intermediate indices: ceil(experts * width / F) shuffled copies end to end, the remainder dropped."""
    copies = -(-experts * width // F)
    run = torch.cat([torch.randperm(F, generator=rng) for _ in range(copies)])
    return run[: experts * width].view(experts, width)


def own_copies(experts: int, width: int, F: int, rng: torch.Generator) -> Tensor:
    """[experts, width] intermediate indices: every expert begins a shuffled copy."""
    return torch.cat([one_run(1, width, F, rng) for _ in range(experts)])


def redraw_parameters(weight_fD: Tensor, noise: float, rng: torch.Generator) -> None:
    """Each parameter with probability `noise`, from N(0, INITIALIZER_RANGE); in place."""
    chosen = torch.rand(weight_fD.shape, generator=rng) < noise
    new = INITIALIZER_RANGE * torch.randn(weight_fD.shape, generator=rng)
    weight_fD.copy_(torch.where(chosen, new.to(weight_fD.dtype), weight_fD))


def redraw_indices(weight_fD: Tensor, noise: float, rng: torch.Generator) -> None:
    """int(noise * f) rows, from a normal distribution with the mean and standard deviation of all they hold; in place."""
    if rows := int(noise * len(weight_fD)):
        chosen = torch.randperm(len(weight_fD), generator=rng)[:rows]
        old = weight_fD[chosen].float()
        weight_fD[chosen] = (old.mean() + old.std() * torch.randn(old.shape, generator=rng)).to(weight_fD.dtype)


class Method(NamedTuple):
    """What sets a recipe apart: where experts come from, what is drawn anew, and whether routing weights sum to one."""

    cut: Callable[[int, int, int, torch.Generator], Tensor]
    redraw: Callable[[Tensor, float, torch.Generator], None]
    norm_topk_prob: bool


METHODS = {"qwen": Method(one_run, redraw_parameters, False), "drop": Method(own_copies, redraw_indices, True)}


@dataclass(frozen=True, slots=True)
class FineGrained:
    """Which recipe, and its numbers; the defaults are Qwen1.5-MoE-A2.7B's.

    `shared` is the shared expert's width in experts. Without a moe_intermediate_size that many experts are about the dense FFN:
    intermediate_size / shared, up to the next multiple of 64 (ours; it gives the blog's 1408 for 5504).
    """

    method: str = "qwen"
    num_experts: int = 60
    num_experts_per_tok: int = 4
    shared: int = 4
    moe_intermediate_size: int | None = None
    noise: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ModelError(f"upcycling method {self.method!r} is not known; known: {', '.join(METHODS)}")
        if self.shared < 1:
            raise ModelError(f"shared is {self.shared}; a Qwen2-MoE layer needs a shared expert of at least 1 expert's width")
        if not 0 <= self.noise <= 1:
            raise ModelError(f"noise {self.noise} must lie in 0..1: the share of parameters that is drawn anew")

    def moe(self, dense: ModelConfig) -> MoEConfig:
        """The sparse layers that this recipe makes of a dense model."""
        width = self.moe_intermediate_size
        if width is None:
            width = min(-(-dense.intermediate_size // (64 * self.shared)) * 64, dense.intermediate_size)
        return MoEConfig(self.num_experts, self.num_experts_per_tok, width, self.shared * width, METHODS[self.method].norm_topk_prob)


def fine_grained(dense: Decoder, recipe: FineGrained, progress: Progress | None = None) -> Decoder:
    """A Qwen2-MoE decoder by one of the recipes above, in the precision of `dense`, whose attention, norms and embeddings it shares.

    Raises ModelError where Qwen2-MoE cannot express `dense`, or an expert would be wider than its FFN.
    """
    method = METHODS[recipe.method]

    def fill(sparse: MoE, ffn: FFN, rng: torch.Generator) -> None:
        gate_FD, up_FD, down_FD = ffn.gate_proj.weight, ffn.up_proj.weight, ffn.down_proj.weight.T.contiguous()
        F, f = len(gate_FD), sparse.moe.moe_intermediate_size

        def expert(indices_f: Tensor) -> list[Tensor]:
            parts = [weight_FD[indices_f] for weight_FD in (gate_FD, up_FD, down_FD)]
            for part_fD in parts:
                method.redraw(part_fD, recipe.noise, rng)
            return parts

        for e, indices_f in enumerate(method.cut(sparse.moe.num_experts, f, F, rng)):
            gate_fD, up_fD, down_fD = expert(indices_f)
            sparse.experts.gate_up_EGD[e] = torch.cat((gate_fD, up_fD))
            sparse.experts.down_EDF[e] = down_fD.T
        assert sparse.shared_expert
        gate, up, down = expert(method.cut(1, sparse.moe.shared_expert_intermediate_size, F, rng)[0])
        sparse.shared_expert.gate_proj.weight[:] = gate
        sparse.shared_expert.up_proj.weight[:] = up
        sparse.shared_expert.down_proj.weight[:] = down.T

    return convert(dense, recipe.moe(dense.config), recipe.seed, fill, progress)
