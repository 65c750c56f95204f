"""Experts with 4-bit weights: against float64 with the weights that the codes stand for, and bit for bit where sums go in order."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton (pip install 'evalkit-lm[gpu]')")

import cases
from cases import LARGE, SMALL, TINY

from moe_lm.backends.cuda import experts_int4, grouped_gemm, routing
from moe_lm.backends.cuda.tuning import DEFAULT, DEFAULT_FLOAT32
from moe_lm.model import route
from moe_lm.quant.grouped import GroupedWeight

BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32
DEFAULTS = {FLOAT32: DEFAULT_FLOAT32, BFLOAT16: DEFAULT}


@pytest.fixture
def sums_in_order(device, monkeypatch):
    """The interpreter's products summed one input after another. numpy's own order depends on the shape of a tile, so without this
    nothing could be said of the order of the kernels' blocks."""
    if device.type == "cuda":
        return
    from triton.runtime import interpreter

    def create_dot(self, a, b, acc, input_precision, max_num_imprecise_acc):
        total = acc.data.copy()
        for k in range(a.data.shape[1]):
            total += a.data[:, k, None] * b.data[None, k]
        return interpreter.TensorHandle(total, acc.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


def matrices(count, outputs, inputs, group_size, symmetric, rng):
    """Random 4-bit weights, grouped and as float32 [X, O, K]. Zero points reach 16, as GPTQ's stored 15 plus one does."""
    codes = torch.randint(0, 16, (count, outputs, inputs), generator=rng, dtype=torch.uint8)
    shape = (count, outputs, inputs // group_size)
    zeros = torch.full(shape, 8, dtype=torch.uint8) if symmetric else torch.randint(0, 17, shape, generator=rng, dtype=torch.uint8)
    scales = ((torch.rand(shape, generator=rng) + 0.5) * inputs**-0.5 / 6).half().float()
    group_of = torch.arange(inputs) // group_size
    weights = (codes.float() - zeros[..., group_of].float()) * scales[..., group_of]
    return GroupedWeight(codes[..., 0::2] | codes[..., 1::2] << 4, scales, zeros, inputs, group_size), weights


def to(device, packed):
    parts = {name: getattr(packed, name).to(device) for name in ("codes", "scales", "zeros")}
    return replace(packed, **parts)


def layer(device, T, E=5, K=2, D=128, F=64, groups=(32, 32), symmetric=False, dtype=BFLOAT16):
    """A layer with weights as the codes give them, and the same weights packed: gate and up, down. `groups`: their sizes."""
    rng = torch.Generator().manual_seed(T + 100 * E)
    gate_up, gate_up_EGD = matrices(E, 2 * F, D, groups[0], symmetric, rng)
    down, down_EDF = matrices(E, D, F, groups[1], symmetric, rng)
    plain = cases.layer(device, T, E, K, D, F, S=0)
    plain = replace(plain, gate_up=gate_up_EGD.to(device), down=down_EDF.to(device)).to(dtype)
    return plain, to(device, experts_int4.pack(gate_up)), to(device, experts_int4.pack(down))


def products(plain, gate_up, down, level):
    """The plan, up's rows, and down's slots."""
    plan = routing.plan(route(plain.router_logits, plain.K, False)[1], len(down), level.block_n)
    act = experts_int4.up(plain.x, gate_up, plan, level.up)
    return plan, act, experts_int4.down(act, down, plan, len(plain.x), level.down)


def routed(plain, gate_up, down, tuned=TINY):
    weights, ids = route(plain.router_logits, plain.K, plain.norm_topk_prob)
    return experts_int4.routed_experts(plain.x, weights, ids, gate_up, down, tuned)


def check(plain, gate_up, down, level=SMALL):
    """Both products, row by row."""
    plan, act, slots = products(plain, gate_up, down, level)
    expected_act, expected = cases.in_float64(plain, plan, act)
    assert cases.error(act, expected_act) <= cases.BOUND[plain.x.dtype]
    assert cases.error(slots.flatten(0, 1)[plan.slots.long()], expected) <= cases.BOUND[plain.x.dtype]


SHAPES = [
    {"T": 1},
    {"T": 5, "groups": (64, 64)},
    {"T": 5, "groups": (128, 32)},  # one group; groups of either size in one layer
    {"T": 3, "E": 13, "K": 1, "D": 64},  # a prime number of experts, most of them empty
    {"T": 5, "D": 96, "F": 32},  # the last block of inputs has no second half
    {"T": 3, "D": 96, "F": 96, "groups": (96, 96)},
    {"T": 20, "E": 3, "D": 64},  # several tiles an expert
    {"T": 4, "E": 3, "K": 3, "D": 64},  # every expert visited by every token
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64_in_bfloat16(device, shape):
    check(*layer(device, **shape))


def test_symmetric_weights(device):
    check(*layer(device, **SHAPES[1], symmetric=True))


@pytest.mark.parametrize("shape", SHAPES[1:6], ids=str)
def test_against_float64_in_float32(device, shape):
    check(*layer(device, **shape, dtype=FLOAT32), LARGE)


@pytest.mark.parametrize("T", [1, 17])
def test_all_tokens_on_one_expert(device, T):
    plain, *packed = layer(device, T, E=7, K=1, D=64)
    plain.router_logits[:, 5] = 9.0
    check(plain, *packed)


def test_an_expert_without_tokens_is_not_read(device):
    plain, *packed = layer(device, 4, E=7, K=1, D=64)
    plain.router_logits[:, 2] = 9.0
    for each in packed:
        each.scales[[0, 1, 3, 4, 5, 6]] = torch.nan
    assert not routed(plain, *packed).isnan().any()


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1], SHAPES[3]], ids=str)
def test_the_layer_is_no_further_from_float64_than_torch_with_the_same_weights(device, shape):
    plain, *packed = layer(device, **shape)
    expected = plain.to(torch.float64).reference()
    assert cases.error(routed(plain, *packed), expected) <= cases.error(plain.reference(), expected)


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_a_token_does_not_depend_on_its_neighbours(device, sums_in_order, dtype):
    plain, *packed = layer(device, 14, E=3, dtype=dtype, groups=(64, 32))
    assert TINY.level(14, 2, 3) is not TINY.level(5, 2, 3)  # 14 tokens take the wide tiles, few take the narrow ones
    together = routed(plain, *packed)
    for tokens in ([13], [7, 3], list(range(13, -1, -1))):
        tokens = torch.tensor(tokens, device=device)
        assert torch.equal(routed(plain.take(tokens), *packed), together[tokens])


def check_bits(plain, gate_up, down, level):
    """The bits that `grouped_gemm` gives with the weights expanded beforehand."""
    plan, act, slots = products(plain, gate_up, down, level)
    block = 2 * experts_int4.HALF
    assert torch.equal(act, grouped_gemm.up(plain.x, plain.gate_up, plan, level.up, block))
    assert torch.equal(slots, grouped_gemm.down(act, plain.down, plan, plain.K, len(plain.x), level.down, block))


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("level", [SMALL, LARGE], ids=["narrow", "wide"])
def test_the_bits_of_expanded_weights(device, sums_in_order, level, dtype):
    check_bits(*layer(device, 9, D=96, dtype=dtype), level)


def test_scales_stay_in_float32_where_float16_would_round_them(device):
    grouped, _ = matrices(2, 32, 64, 32, False, torch.Generator().manual_seed(0))
    assert experts_int4.pack(grouped).scales.dtype == torch.float16
    finer = replace(grouped, scales=grouped.scales * 1.0001)
    packed = to(device, experts_int4.pack(finer))
    x = torch.eye(64)[:4].to(device)
    plan = routing.plan(torch.ones((4, 1), dtype=torch.int64, device=device), 2, SMALL.block_n)
    rows = experts_int4.down(x, packed, plan, 4, SMALL.down)[:, 0]
    assert torch.equal(rows.cpu(), finer.dequantized()[1, :, :4].t())


def test_what_does_not_fit_is_refused(device):
    plain, gate_up, down = layer(device, 3)
    plan, act, _ = products(plain, gate_up, down, SMALL)
    fewer = routing.plan(torch.zeros((3, 2), dtype=torch.int64, device=device), 4, SMALL.block_n)
    for rows in (plain.x[:, :96], plain.x.int(), plain.x[None]):
        with pytest.raises(ValueError, match=r"weights of 128 inputs want floats \[rows, 128\]"):
            experts_int4.up(rows, gate_up, plan, SMALL.up)
    with pytest.raises(ValueError, match="a plan of 4 experts for 5 matrices"):
        experts_int4.up(plain.x, gate_up, fewer, SMALL.up)
    with pytest.raises(ValueError, match="4 rows of activations for a plan of 6"):
        experts_int4.down(act[:4], down, plan, 3, SMALL.down)
    with pytest.raises(ValueError, match=r"are on .* and meta"):
        experts_int4.down(act, to("meta", down), plan, 3, SMALL.down)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("T", [1, 8, 300, 2000])
def test_at_qwen_moes_width(gpu, T, dtype):
    check(*layer(gpu, T, 60, 4, D=2048, F=1408, groups=(128, 128), dtype=dtype), level=DEFAULTS[dtype].level(T, 4, 60))


@pytest.mark.gpu
def test_neighbours_at_qwen_moes_width(gpu):
    """Across every tile size, any order."""
    plain, *packed = layer(gpu, 4096, 60, 4, D=2048, F=1408, groups=(128, 128))
    together = routed(plain, *packed, DEFAULT)
    order = torch.randperm(4096, generator=torch.Generator().manual_seed(0)).to(gpu)
    for count in (1, 8, 100, 300, 512, 1000, 2000, 4096):
        assert torch.equal(routed(plain.take(order[:count]), *packed, DEFAULT), together[order[:count]])


@pytest.mark.gpu
@pytest.mark.parametrize("level", DEFAULT.levels, ids=lambda level: f"block_n{level.block_n}")
def test_the_bits_of_expanded_weights_at_qwen_moes_width(gpu, level):
    check_bits(*layer(gpu, 300, 5, 2, D=2048, F=1408, groups=(128, 128)), level)
