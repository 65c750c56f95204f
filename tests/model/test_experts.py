"""The router and the plain experts against loops in float64; which back-end runs where."""

import pytest
import torch
import torch.nn.functional as F

from moe_lm.backends import choose, why_not_cpu
from moe_lm.config import MoEConfig
from moe_lm.errors import ModelError
from moe_lm.model import route, routed_experts

D, HIDDEN = 24, 10  # the hidden size; an expert's


def loop(x, weights, ids, gate_up, down):
    """Token by token, choice by choice, in float64."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    for t in range(len(x)):
        for weight, expert in zip(weights[t].double(), ids[t].tolist(), strict=True):
            gate, up = (gate_up[expert].double() @ x[t].double()).chunk(2)
            out[t] += weight * (down[expert].double() @ (F.silu(gate) * up))
    return out


def random_case(num_tokens, num_experts, k, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(num_tokens, D, generator=rng)
    gate_up = torch.randn(num_experts, 2 * HIDDEN, D, generator=rng) / D**0.5
    down = torch.randn(num_experts, D, HIDDEN, generator=rng) / HIDDEN**0.5
    weights, ids = route(torch.randn(num_tokens, num_experts, generator=rng), k, norm_topk_prob=True)
    return x, weights, ids, gate_up, down


def assert_right(case):
    expected = loop(*case)
    found = routed_experts(*case)
    assert found.shape == case[0].shape
    assert found.dtype == case[0].dtype
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_each_device_has_its_back_end(monkeypatch):
    monkeypatch.setattr("moe_lm.backends.find_spec", lambda _: object())
    assert choose("auto", "cuda") == "triton"
    assert choose("auto", "cpu") == ("reference" if why_not_cpu(torch.float32) else "cpu")
    assert choose("auto", "cpu", torch.float16) == "reference"
    assert (choose("reference", "cpu"), choose("reference", "cuda")) == ("reference", "reference")


@pytest.mark.parametrize(
    ("kernel", "device", "message"),
    [
        ("cuda", "cuda", "unknown kernel 'cuda'; there are auto, reference, cpu, triton"),
        ("cpu", "cuda", "the device is cuda; use --kernel triton or reference"),
        ("triton", "cpu", "needs a GPU, and the device is cpu; use --kernel cpu"),
        ("auto", "cuda", "pip install triton`, or use --kernel reference"),
    ],
)
def test_a_back_end_that_cannot_run_is_refused(monkeypatch, kernel, device, message):
    monkeypatch.setattr("moe_lm.backends.find_spec", lambda _: None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ModelError, match=message):
        choose(kernel, device)


def test_triton_runs_on_a_cpu_under_its_interpreter_alone(monkeypatch):
    monkeypatch.setattr("moe_lm.backends.find_spec", lambda _: object())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose("triton", "cpu") == "triton"
    assert choose("auto", "cpu") != "triton"


def test_the_compiled_kernels_take_two_precisions():
    with pytest.raises(ModelError, match="take float32 and bfloat16, and the dtype is float16; or use --kernel reference"):
        choose("cpu", "cpu", torch.float16)


@pytest.mark.parametrize("num_tokens", [1, 2, 16, 37, 256, 300])
@pytest.mark.parametrize(("num_experts", "k"), [(5, 2), (7, 7), (13, 3), (8, 1), (1, 1)])
def test_random_routing(num_tokens, num_experts, k):
    assert_right(random_case(num_tokens, num_experts, k))


def test_empty_experts():
    x, weights, _, gate_up, down = random_case(40, 7, 2)
    ids = torch.tensor([[1, 5]]).repeat(40, 1)  # nobody visits 0, 2, 3, 4, 6
    ids[::3] = torch.tensor([5, 1])
    assert_right((x, weights, ids, gate_up, down))
    damaged = gate_up.clone()
    damaged[[0, 2, 3, 4, 6]] = torch.nan  # an expert without tokens is not even read
    assert torch.equal(routed_experts(x, weights, ids, damaged, down), routed_experts(x, weights, ids, gate_up, down))


@pytest.mark.parametrize("num_tokens", [1, 48, 256])
def test_all_tokens_on_one_expert(num_tokens):
    x, _, _, gate_up, down = random_case(num_tokens, 5, 1)
    assert_right((x, torch.ones(num_tokens, 1), torch.full((num_tokens, 1), 4), gate_up, down))


def test_more_tokens_on_an_expert_than_a_tile():
    x, weights, _, gate_up, down = random_case(512, 5, 2)
    assert_right((x, weights, torch.tensor([[3, 0]]).repeat(512, 1), gate_up, down))


def test_zero_weights_give_zero():
    x, weights, ids, gate_up, down = random_case(9, 5, 2)
    assert not routed_experts(x, torch.zeros_like(weights), ids, gate_up, down).any()


@pytest.mark.parametrize("norm_topk_prob", [False, True])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_route_weights(k, norm_topk_prob):
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(2))
    weights, ids = route(logits, k, norm_topk_prob)
    probs = logits.double().softmax(-1)
    expected, expected_ids = probs.topk(k)
    assert torch.equal(ids, expected_ids)
    if norm_topk_prob:
        expected = expected / expected.sum(-1, keepdim=True)
        assert torch.allclose(weights.sum(-1), torch.ones(50))
    assert torch.allclose(weights.double(), expected, atol=1e-6)


def test_ties_go_to_the_lowest_expert():
    assert route(torch.zeros(3, 64), 4, True)[1].tolist() == [[0, 1, 2, 3]] * 3
    assert route(torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0, 2.0, 3.0]]), 5, False)[1].tolist() == [[1, 3, 6, 2, 4]]
    weights, _ = route(torch.zeros(3, 64), 4, True)
    assert torch.equal(weights, torch.full((3, 4), 0.25))


def test_route_in_float32_whatever_comes_in():
    logits = torch.randn(20, 8, generator=torch.Generator().manual_seed(3)).bfloat16()
    weights, ids = route(logits, 2, True)
    assert weights.dtype == torch.float32
    assert torch.equal(weights, route(logits.float(), 2, True)[0])
    assert ids.dtype == torch.int64


@pytest.mark.parametrize("k", [0, 6])
def test_as_many_experts_as_there_are(k):
    with pytest.raises(ModelError, match="num_experts_per_tok"):
        MoEConfig(5, k, 8, 8, True)
