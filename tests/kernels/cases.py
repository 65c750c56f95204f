"""Random layers, the measure of an error, and what counts as the same result, shared by the kernels' tests."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_lm.backends import formulas
from moe_lm.backends.cuda.routing import Plan
from moe_lm.backends.cuda.tuning import Level, Tiles, Tuning
from moe_lm.model import route

# tiles small enough that tiny shapes have several, and two levels, so that different numbers of tokens take different tiles
TINY = Tuning(
    block_k=16,
    levels=(
        Level(8, 16, Tiles(32, 4, 2, 1), Tiles(16, 4, 2, 1)),
        Level(float("inf"), 32, Tiles(64, 4, 2, 1), Tiles(32, 4, 2, 1)),
    ),
    source="test",
)
SMALL, LARGE = TINY.levels


@dataclass(frozen=True, slots=True)
class Layer:
    """One sparse layer and its input: x [T, D], router_logits [T, E], gate_up [E, 2F, D], down [E, D, F], shared_gate [T].

    The shared expert's weights are (gate_SD, up_SD, down_DS), or None.
    """

    x: Tensor
    router_logits: Tensor
    gate_up: Tensor
    down: Tensor
    shared: tuple[Tensor, Tensor, Tensor] | None
    shared_gate: Tensor | None
    K: int
    norm_topk_prob: bool

    def to(self, dtype: torch.dtype) -> "Layer":
        """Activations and weights in `dtype`; the router's logits stay as they are, so that all routes agree."""
        shared = tuple(w.to(dtype) for w in self.shared) if self.shared else None
        gate = None if self.shared_gate is None else self.shared_gate.to(dtype)
        weights = (self.gate_up.to(dtype), self.down.to(dtype))
        return Layer(self.x.to(dtype), self.router_logits, *weights, shared, gate, self.K, self.norm_topk_prob)

    def take(self, tokens: Tensor) -> "Layer":
        """The same layer over some of its tokens."""
        gate = None if self.shared_gate is None else self.shared_gate[tokens]
        inputs = (self.x[tokens], self.router_logits[tokens], self.gate_up, self.down, self.shared)
        return Layer(*inputs, gate, self.K, self.norm_topk_prob)

    def reference(self) -> Tensor:
        """In the dtype of the layer: float64 for the truth, any other for torch's own error."""
        weights_TK, ids_TK = route(self.router_logits, self.K, self.norm_topk_prob)
        if self.x.dtype == torch.float64:
            weights_TK = weights_TK.double()
        return formulas.moe_layer(self.x, weights_TK, ids_TK, self.gate_up, self.down, self.shared, self.shared_gate)


def layer(device, T=20, E=7, K=2, D=40, F=24, S=48, gated=True, norm_topk_prob=False, dtype=torch.float32, seed=0) -> Layer:
    """D and F are no multiples of the test tiles; S: the shared expert's hidden size, 0 for none."""
    rng = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=rng) * scale).to(device)

    shared = (random(S, D, scale=D**-0.5), random(S, D, scale=D**-0.5), random(D, S, scale=S**-0.5)) if S else None
    weights = (random(E, 2 * F, D, scale=D**-0.5), random(E, D, F, scale=F**-0.5))
    gate = random(T) if S and gated else None
    return Layer(random(T, D), random(T, E), *weights, shared, gate, K, norm_topk_prob).to(dtype)


def error(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||; NaN where anything is NaN, which no bound admits."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


BOUND = {torch.float32: 1e-6, torch.bfloat16: 4e-3}  # of a product rounded once


def in_float64(layer: Layer, plan: Plan, act: Tensor) -> tuple[Tensor, Tensor]:
    """What both products should be, [R, F] and [R, D], from the plan's own rows and, for the second, from `act`."""
    tokens = plan.slots.long() // (len(plan.slots) // len(layer.x))
    starts, ups, downs = plan.starts.tolist(), [], []
    for expert, (begin, end) in enumerate(pairwise(starts)):
        gate, up = (layer.x[tokens[begin:end]].double() @ layer.gate_up[expert].double().t()).chunk(2, dim=-1)
        ups.append(F.silu(gate) * up)
        downs.append(act[begin:end].double() @ layer.down[expert].double().t())
    return torch.cat(ups), torch.cat(downs)


# of each entry and of values near 1: a few roundings of a sum, and of what a kernel keeps in its dtype on the way
SAME = {torch.float32: 1e-5, torch.bfloat16: 1.6e-2}


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal bits where the kernels are compiled. Triton's interpreter multiplies with numpy, whose sums depend on the shape of a tile
    and on the processor: there the results are held to `SAME`."""
    if found.is_cuda:
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=SAME[found.dtype], atol=SAME[found.dtype])
