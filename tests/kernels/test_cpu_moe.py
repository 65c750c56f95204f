"""The routed experts on packed weights."""

import pytest
import torch
from cpu_cases import both_dtypes, needs_kernels, random, random_routing, relative_error

from moe_lm.backends.cpu import moe
from moe_lm.backends.cpu.moe import routed_experts
from moe_lm.backends.cpu.pack import PackedMatrix
from moe_lm.model import route
from moe_lm.model import routed_experts as reference

pytestmark = needs_kernels

ROUTINGS = {
    "random": random_routing,
    "all on one expert": lambda T, E, K: torch.arange(E - K, E).expand(T, K).contiguous(),
    "on the first experts": lambda T, E, K: torch.arange(K).expand(T, K).contiguous(),
}


@pytest.mark.parametrize("routing", ["random", "all on one expert"])
@both_dtypes
@pytest.mark.parametrize(("T", "E", "K"), [(1, 7, 2), (40, 7, 3), (9, 1, 1), (600, 5, 2)])
def test_the_experts_equal_the_reference(T, E, K, dtype, routing):
    D, H = 48, 20
    x, weights, ids = random(T, D, dtype=dtype), random(T, K, seed=1).abs(), ROUTINGS[routing](T, E, K)
    gate_up, down = random(E, 2 * H, D, seed=2, dtype=dtype), random(E, D, H, seed=3, dtype=dtype)
    packed = PackedMatrix.gated(*gate_up.chunk(2, dim=1), "silu"), PackedMatrix.of(down)
    found = routed_experts(x, weights, ids, *packed)
    exact = reference(x.double(), weights.double(), ids, gate_up.double(), down.double())
    assert relative_error(found, exact) < (1e-6 if dtype == torch.float32 else 4e-3)
    alone = [routed_experts(x[t : t + 1], weights[t : t + 1], ids[t : t + 1], *packed) for t in (0, T - 1)]
    assert torch.equal(torch.cat(alone), found[[0, -1]])


@pytest.mark.parametrize("routing", ROUTINGS)
def test_experts_in_groups_have_the_same_bits(monkeypatch, routing):
    """The last experts of a group, or all of it, may have no row."""
    T, E, K, D, H = 50, 9, 3, 40, 24
    x, weights, ids = random(T, D), random(T, K, seed=1).abs(), ROUTINGS[routing](T, E, K)
    packed = PackedMatrix.gated(random(E, H, D, seed=2), random(E, H, D, seed=3), "silu"), PackedMatrix.of(random(E, D, H, seed=4))
    whole = routed_experts(x, weights, ids, *packed)
    for group in (1, 16, 60):
        monkeypatch.setattr(moe, "GROUP", group)
        assert torch.equal(routed_experts(x, weights, ids, *packed), whole)
    assert routed_experts(x[:0], weights[:0], ids[:0], *packed).shape == (0, D)


def test_ties_go_to_the_lowest_expert():
    weights, ids = route(torch.zeros(3, 5), 2, norm_topk_prob=True)
    assert ids.tolist() == [[0, 1]] * 3
    packed = PackedMatrix.gated(random(5, 4, 8, seed=1), random(5, 4, 8, seed=2), "silu"), PackedMatrix.of(random(5, 8, 4))
    x = random(3, 8, seed=3)
    assert torch.equal(routed_experts(x, weights, ids, *packed), routed_experts(x, weights, ids.flip(1), *packed))
