"""The `cpu` tenant: the same bits for a token in any company, and no further from float64 than transformers is."""

import pytest
import torch
from tiny_models import logits, tiny_config, tiny_decoder, tokens
from transformers import Qwen2MoeConfig
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts

from moe_lm.backends import experts_torch
from moe_lm.backends.experts import reference, route
from moe_lm.backends.experts_torch import MAX_COLUMNS, routed_experts

E, K, D, F = 7, 2, 192, 88  # F: no multiple of a share's rows


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request):
    return request.param


@pytest.fixture
def bfloat16_units(monkeypatch):
    """As on a processor that multiplies bfloat16: its products are then taken, if slowly, on any."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    experts_torch._multiplies.cache_clear()
    yield
    monkeypatch.undo()
    experts_torch._multiplies.cache_clear()


def random_case(T, dtype, E=E, D=D, F=F):
    rng = torch.Generator().manual_seed(T)
    x = torch.randn(T, D, generator=rng).to(dtype)
    gate_up = (torch.randn(E, 2 * F, D, generator=rng) / D**0.5).to(dtype)
    down = (torch.randn(E, D, F, generator=rng) / F**0.5).to(dtype)
    return x, *route(torch.randn(T, E, generator=rng), K, norm_topk_prob=False), gate_up, down


def error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


def errors(case):
    """Ours and transformers' grouped_mm's, against float64."""
    x, weights, ids, gate_up, down = case
    peer = Qwen2MoeExperts(
        Qwen2MoeConfig(
            hidden_size=x.shape[1],
            moe_intermediate_size=down.shape[2],
            num_experts=len(down),
            num_experts_per_tok=K,
            experts_implementation="grouped_mm",
        )
    )
    peer.gate_up_proj.data, peer.down_proj.data = gate_up, down
    expected = reference(x.double(), weights.double(), ids, gate_up.double(), down.double())
    with torch.no_grad():
        return error(routed_experts(*case), expected), error(peer(x, ids, weights.to(x.dtype)), expected)


@pytest.mark.parametrize("T", [1, 8, 61, 256])
def test_no_further_from_float64_than_transformers(T, dtype):
    ours, theirs = errors(random_case(T, dtype))
    if dtype == torch.bfloat16:
        assert ours <= theirs
    else:
        # a product with one row is a vector's: its sums are shorter, and its errors half of those that all of ours have
        assert ours <= (1.1 * theirs if T > 16 else 5e-7)


@pytest.mark.usefixtures("bfloat16_units")
@pytest.mark.parametrize("T", [61, 256])
def test_nor_is_it_where_the_processor_multiplies_bfloat16(T):
    ours, theirs = errors(random_case(T, torch.bfloat16))
    assert ours <= theirs


def check_neighbours(case, counts):
    x, weights, ids, gate_up, down = case
    together = routed_experts(*case)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    for count in counts:
        some = order[:count]
        assert torch.equal(routed_experts(x[some], weights[some], ids[some], gate_up, down), together[some]), count


def test_a_token_does_not_depend_on_its_neighbours(dtype, threads):
    check_neighbours(random_case(255, dtype), (1, 2, 16, 100, 255))  # decode steps
    check_neighbours(random_case(1024, dtype), (256, 512, 1024))  # prefills


def test_nor_on_whether_it_is_a_prefill():
    """One form for both, where the weights become float32 or are."""
    check_neighbours(random_case(512, torch.float32), (1, 48, 256, 300))


@pytest.mark.usefixtures("bfloat16_units")
def test_nor_does_it_where_the_processor_multiplies_bfloat16(threads):
    check_neighbours(random_case(255, torch.bfloat16), (1, 2, 16, 100, 255))


def test_nor_on_how_many_share_its_expert(dtype, threads):
    """From one column to more than a product has."""
    x, _, _, gate_up, down = random_case(3 * 256, dtype)
    weights, ids = torch.full((len(x), 1), 0.7), torch.full((len(x), 1), 4)
    assert len(x) > 2 * MAX_COLUMNS
    together = routed_experts(x, weights, ids, gate_up, down)
    ids[1:256] = torch.arange(255)[:, None] % 4
    assert torch.equal(routed_experts(x[:256], weights[:256], ids[:256], gate_up, down)[0], together[0])


@pytest.mark.parametrize(("D", "F"), [(576, 64), (2048, 1408)], ids=["demo", "qwen1.5-moe"])
def test_neighbours_at_real_shapes(D, F, dtype):
    x, weights, ids, gate_up, down = random_case(16, dtype, E=2, D=D, F=F)
    together = routed_experts(x, weights, ids, gate_up, down)
    for few in (1, 5):
        assert torch.equal(routed_experts(x[:few], weights[:few], ids[:few], gate_up, down), together[:few])


def test_a_decoder_takes_either_tenant(one_thread):
    model = tiny_decoder(tiny_config("qwen2_moe"))
    sequences = [tokens(n, seed=n) for n in (1, 40)]
    found = {}
    for kernel in ("cpu", "reference"):
        model.use(kernel)
        found[kernel] = logits(model, *sequences)
    for ours, expected in zip(found["cpu"], found["reference"], strict=True):
        assert torch.allclose(ours, expected, atol=1e-5)
