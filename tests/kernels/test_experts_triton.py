"""The whole sparse layer: no further from float64 than torch's own in the same dtype; a token's result does not depend on the batch."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="the kernels need triton (pip install 'evalkit-lm[gpu]')")

import cases
from cases import TINY
from tiny_models import tiny_config, tiny_decoder

from moe_lm.backends import formulas
from moe_lm.backends.cuda import experts_triton
from moe_lm.model import MoE, route

BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32


def run(layer, tuned=TINY):
    stacked = experts_triton.stack(layer.gate_up, layer.down, layer.shared)
    inputs = (layer.x, layer.router_logits, stacked, layer.K, layer.norm_topk_prob, layer.shared_gate)
    return experts_triton.moe_layer(*inputs, tuned)


def check(layer, tuned=TINY):
    expected = layer.to(torch.float64).reference()
    own = cases.error(layer.reference(), expected)
    found = run(layer, tuned)
    assert found.shape == layer.x.shape
    assert found.dtype == layer.x.dtype
    # in float32 both errors are a few roundings, of which either may have the luckier
    assert cases.error(found, expected) <= (own if layer.x.dtype == BFLOAT16 else 1.5 * own)


SHAPES = [
    {"T": 1},
    {"T": 17},
    {"T": 7, "E": 13, "K": 3, "norm_topk_prob": True},  # a prime number of experts
    {"T": 3, "E": 13},  # most experts empty
    {"T": 5, "S": 0},  # no shared expert
    {"T": 5, "S": 24, "gated": False},
    {"T": 5, "S": 30, "norm_topk_prob": True},  # a shared expert whose last slice is padded
    {"T": 5, "E": 4, "K": 4, "S": 0},  # every expert visited by every token
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64_in_bfloat16(device, shape):
    check(cases.layer(device, **shape, dtype=BFLOAT16))


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2], SHAPES[6]], ids=str)
def test_against_float64_in_float32(device, shape):
    check(cases.layer(device, **shape))


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_all_tokens_on_one_expert(device, dtype):
    layer = cases.layer(device, 17, K=1, S=0, dtype=dtype)
    layer.router_logits[:, 5] = 9.0
    check(layer)


def test_tied_logits(device):
    layer = cases.layer(device, 4, K=3, S=0, norm_topk_prob=True)
    layer.router_logits.zero_()
    check(layer)


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_a_token_does_not_depend_on_its_neighbours(device, dtype):
    layer = cases.layer(device, 14, E=3, S=24, dtype=dtype)  # 14 tokens take the wide tiles, few take the narrow ones
    assert TINY.level(14, 2, 3) is not TINY.level(5, 2, 3)
    together = run(layer)
    for tokens in ([13], [7, 3], list(range(13, -1, -1))):
        tokens = torch.tensor(tokens, device=device)
        cases.assert_same(run(layer.take(tokens)), together[tokens])


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_the_shared_expert_is_one_whether_sliced_or_not(device, dtype, monkeypatch):
    layer = cases.layer(device, 4, dtype=dtype)
    sliced = run(layer)
    monkeypatch.setattr(experts_triton, "SLICED_TOKENS", 0)
    cases.assert_same(run(layer), sliced)


def test_routed_experts_alone(device):
    layer = cases.layer(device, 5, S=0, dtype=BFLOAT16)
    weights, ids = route(layer.router_logits, layer.K, False)
    found = experts_triton.routed_experts(layer.x, weights, ids, layer.gate_up, layer.down)
    assert cases.error(found, layer.to(torch.float64).reference()) <= cases.error(layer.reference(), layer.to(torch.float64).reference())


def test_stacked_weights_hold_the_routed_experts_first(device):
    layer = cases.layer(device, S=30)
    stacked = experts_triton.stack(layer.gate_up, layer.down, layer.shared)
    assert stacked.always_on == 2
    assert torch.equal(stacked.gate_up[:7], layer.gate_up)
    assert torch.equal(stacked.down[:7], layer.down)
    x, total = layer.x, 0
    for expert in (7, 8):
        total = total + formulas.ffn(x, *stacked.gate_up[expert].chunk(2), stacked.down[expert])
    assert torch.allclose(total, formulas.ffn(x, *layer.shared), atol=1e-5)


@pytest.mark.parametrize("family", ["qwen2_moe", "mixtral", "deepseek"])
def test_bound_to_a_model(device, family):
    """The model's own layer: gated, no and ungated shared expert; its parameters hold the same weights afterwards."""
    moe = next(layer.ffn for layer in tiny_decoder(tiny_config(family)).layers if isinstance(layer.ffn, MoE)).to(device)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).to(device)
    gate_up, down = moe.experts.gate_up_EGD.clone(), moe.experts.down_EDF.clone()
    shared = moe.shared_expert
    weights, ids = route(F.linear(x, moe.router.weight), moe.moe.num_experts_per_tok, moe.moe.norm_topk_prob)
    gate = None if moe.shared_expert_gate is None else F.linear(x, moe.shared_expert_gate.weight)[:, 0]
    slices = None if shared is None else (shared.gate_proj.weight, shared.up_proj.weight, shared.down_proj.weight)
    expected = formulas.moe_layer(x, weights, ids, gate_up, down, slices, gate)
    forward = experts_triton.TritonMoE(moe)
    with torch.inference_mode():
        assert torch.allclose(forward(x), expected, atol=1e-5)
    assert torch.equal(moe.experts.gate_up_EGD, gate_up)
    assert torch.equal(moe.experts.down_EDF, down)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("T", [1, 8, 64, 513])
def test_at_qwen_moes_shape(gpu, T, dtype):
    check(cases.layer(gpu, T, 60, 4, D=2048, F=1408, S=5632, dtype=dtype), None)


@pytest.mark.gpu
def test_neighbours_at_qwen_moes_shape(gpu):
    """Across every tile size, both ways with the shared expert, any order."""
    layer = cases.layer(gpu, 4096, 60, 4, D=2048, F=1408, S=5632, dtype=BFLOAT16)
    together = run(layer, None)
    order = torch.randperm(4096, generator=torch.Generator().manual_seed(0)).to(gpu)
    for count in (1, 8, 100, 300, 512, 513, 1000, 2000, 4096):
        assert torch.equal(run(layer.take(order[:count]), None), together[order[:count]])


@pytest.mark.gpu
def test_in_a_cuda_graph(gpu):
    """Captured once, replayed on other tokens, which take other experts: nothing may have come from the host."""
    layer, other = (cases.layer(gpu, 16, 60, 4, D=2048, F=1408, S=5632, dtype=BFLOAT16, seed=seed) for seed in (0, 1))
    stacked = experts_triton.stack(layer.gate_up, layer.down, layer.shared)
    x, logits, gate = layer.x.clone(), layer.router_logits.clone(), layer.shared_gate.clone()

    def step():
        return experts_triton.moe_layer(x, logits, stacked, layer.K, layer.norm_topk_prob, gate)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for inputs in (layer, other):
        for buffer, values in ((x, inputs.x), (logits, inputs.router_logits), (gate, inputs.shared_gate)):
            buffer.copy_(values)
        graph.replay()
        assert torch.equal(captured, step())
