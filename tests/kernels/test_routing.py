"""Routing in Triton: the ids and weights of `moe_lm.model.route`, and a plan that holds every row once."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton (pip install 'evalkit-lm[gpu]')")

from moe_lm.backends.cuda import routing
from moe_lm.model import route


def check_plan(plan, ids_TK, E, always_on):
    """Rows sorted by expert, then by token; tiles that cover each expert's rows, routed experts' tiles first."""
    T, K = ids_TK.shape
    C = K + always_on
    rows = sorted((expert, t, t * C + k) for t, ids in enumerate(ids_TK.tolist()) for k, expert in enumerate(ids))
    rows += [(E + a, t, t * C + K + a) for a in range(always_on) for t in range(T)]
    assert plan.slots.tolist() == [slot for _, _, slot in rows]
    experts = [expert for expert, _, _ in rows]
    starts = [sum(e < expert for e in experts) for expert in range(E + always_on + 1)]
    assert plan.starts.tolist() == starts
    tiles = [(x, row) for x in range(E + always_on) for row in range(starts[x], starts[x + 1], plan.block_n)]
    used, routed = plan.num_tiles.tolist()
    assert (used, routed) == (len(tiles), sum(x < E for x, _ in tiles))
    assert used <= len(plan.tile_experts) == len(plan.tile_rows)
    assert list(zip(plan.tile_experts[:used].tolist(), plan.tile_rows[:used].tolist(), strict=True)) == tiles


def logits(device, T, E, seed=0):
    return torch.randn(T, E, generator=torch.Generator().manual_seed(seed)).to(device)


@pytest.mark.parametrize("norm_topk_prob", [False, True])
@pytest.mark.parametrize("T", [1, 37, routing.ONE_BLOCK + 1])  # the last takes two launches and three blocks
@pytest.mark.parametrize(("E", "K", "always_on"), [(60, 4, 4), (13, 3, 0), (1, 1, 2), (8, 8, 1)])
def test_as_the_reference(device, T, E, K, always_on, norm_topk_prob):
    router_logits = logits(device, T, E)
    weights, ids, plan = routing.route(router_logits, K, norm_topk_prob, 16, always_on)
    expected_weights, expected_ids = route(router_logits, K, norm_topk_prob)
    assert torch.equal(ids.long(), expected_ids)
    assert torch.allclose(weights, expected_weights, rtol=1e-6, atol=1e-7)
    check_plan(plan, ids, E, always_on)


@pytest.mark.parametrize("T", [5, 200])
def test_a_plan_for_known_ids(device, T):
    ids = route(logits(device, T, 11), 3, False)[1]
    check_plan(routing.plan(ids, 11, 32), ids, 11, 0)


@pytest.mark.parametrize("T", [60, 200])
def test_all_tokens_on_one_expert(device, T):
    ids = torch.full((T, 1), 4, device=device)
    plan = routing.plan(ids, 7, 16, always_on=1)
    check_plan(plan, ids, 7, 1)


def test_ties_go_to_the_lowest_expert(device):
    assert routing.route(torch.zeros(3, 60, device=device), 4, True, 16)[1].tolist() == [[0, 1, 2, 3]] * 3
    tied = torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0, 2.0, 3.0]], device=device)
    assert routing.route(tied, 5, False, 16)[1].tolist() == [[1, 3, 6, 2, 4]]


def test_probabilities_of_zero_too_go_to_the_lowest_expert(device):
    alone = torch.full((2, 5), -200.0, device=device)
    alone[:, 3] = 0
    weights, ids, _ = routing.route(alone, 3, False, 16)
    assert ids.tolist() == [[3, 0, 1]] * 2
    assert weights.tolist() == [[1.0, 0.0, 0.0]] * 2


def test_bfloat16_logits_are_routed_in_float32(device):
    router_logits = logits(device, 20, 9).bfloat16()
    weights, ids, _ = routing.route(router_logits, 2, True, 16)
    expected_weights, expected_ids = route(router_logits, 2, True)
    assert weights.dtype == torch.float32
    assert torch.equal(ids.long(), expected_ids)
    assert torch.allclose(weights, expected_weights, rtol=1e-6)


@pytest.mark.parametrize("T", [6, 150])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, in the interpreter
def test_a_token_without_numbers_leaves_its_neighbours_alone(device, T):
    router_logits = logits(device, T, 7)
    router_logits[2] = torch.nan
    router_logits[3] = -torch.inf
    weights, ids, plan = routing.route(router_logits, 2, True, 16, 2)
    assert weights[2:4].isnan().all()
    good = torch.tensor([t for t in range(T) if t not in (2, 3)], device=device)
    expected_weights, expected_ids = route(router_logits[good], 2, True)
    assert torch.equal(ids[good].long(), expected_ids)
    assert torch.allclose(weights[good], expected_weights, rtol=1e-6)
    check_plan(plan, ids, 7, 2)


@pytest.mark.gpu
@pytest.mark.parametrize("T", [1, 8, 128, 129, 512, 8192])
def test_at_qwen_moes_shape(gpu, T):
    router_logits = logits(gpu, T, 60)
    weights, ids, plan = routing.route(router_logits, 4, False, 128, 4)
    expected_weights, expected_ids = route(router_logits, 4, False)
    assert torch.equal(ids.long(), expected_ids)
    assert torch.allclose(weights, expected_weights, rtol=1e-5)
    check_plan(plan, ids, 60, 4)
