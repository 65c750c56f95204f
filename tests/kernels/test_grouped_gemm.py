"""Both grouped products, row by row, against float64."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton (pip install 'evalkit-lm[gpu]')")

import cases
from cases import LARGE, SMALL, TINY

from moe_lm.backends.cuda import grouped_gemm, routing
from moe_lm.backends.cuda.tuning import DEFAULT
from moe_lm.model import route


def run(layer, level, block_k=TINY.block_k, tma=None):
    """The plan, up's rows, and down's slots."""
    ids = route(layer.router_logits, layer.K, False)[1]
    plan = routing.plan(ids, len(layer.down), level.block_n)
    act = grouped_gemm.up(layer.x, layer.gate_up, plan, level.up, block_k, tma)
    return plan, act, grouped_gemm.down(act, layer.down, plan, layer.K, len(layer.x), level.down, block_k, tma)


def check(layer, level, block_k=TINY.block_k, tma=None):
    plan, act, slots = run(layer, level, block_k, tma)
    up, down = cases.in_float64(layer, plan, act)
    bound = cases.BOUND[layer.x.dtype]
    assert cases.error(act, up) <= bound
    assert cases.error(slots.flatten(0, 1)[plan.slots.long()], down) <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("T", "E", "K"), [(1, 7, 2), (20, 3, 2), (3, 13, 1)])  # one token; tiles with room; empty experts
def test_rows(device, T, E, K, dtype):
    check(cases.layer(device, T, E, K, dtype=dtype), SMALL)


@pytest.mark.parametrize("level", [SMALL, LARGE])
def test_shapes_that_tiles_divide(device, level):
    check(cases.layer(device, 20, 3, 2, D=64, F=32), level)


def test_by_pointer_and_by_descriptor_alike(device):
    layer = cases.layer(device, 9)
    for found, expected in zip(run(layer, SMALL, tma=True)[1:], run(layer, SMALL, tma=False)[1:], strict=True):
        cases.assert_same(found, expected)


def test_rows_that_are_not_aligned_go_by_pointer(device):
    check(cases.layer(device, 3, D=39, F=21), SMALL)


def test_an_expert_without_tokens_is_not_read(device):
    layer = cases.layer(device, 4, 7, 1)
    layer.router_logits[:, 2] = 9.0
    layer.gate_up[[0, 1, 3, 4, 5, 6]] = torch.nan
    layer.down[[0, 1, 3, 4, 5, 6]] = torch.nan
    for tma in (True, False):
        assert not run(layer, SMALL, tma=tma)[2].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_slices_add_up_as_if_stored(device, dtype):
    """What `shared_down` sums is what `down` would have written for each slice, rounded."""
    T, E, A = 6, 3, 2
    layer = cases.layer(device, T, E + A, 2, dtype=dtype)
    plan = routing.plan(route(layer.router_logits[:, :E], 2, False)[1], E, SMALL.block_n, A)
    act = grouped_gemm.up(layer.x, layer.gate_up, plan, SMALL.up, TINY.block_k)
    slots = grouped_gemm.down(act, layer.down, plan, 2 + A, T, SMALL.down, TINY.block_k)
    found = grouped_gemm.shared_down(act, layer.down, E, T, 32, LARGE.down, TINY.block_k)
    cases.assert_same(found, (slots[:, 2].float() + slots[:, 3].float()).to(dtype))
    routed = grouped_gemm.down(act, layer.down, plan, 2, T, SMALL.down, TINY.block_k)
    cases.assert_same(routed, slots[:, :2])


@pytest.mark.gpu
@pytest.mark.parametrize("tma", [True, False])
@pytest.mark.parametrize("level", DEFAULT.levels, ids=lambda level: f"block_n{level.block_n}")
def test_at_qwen_moes_width(gpu, level, tma):
    layer = cases.layer(gpu, 300, 5, 2, D=2048, F=1408, S=0, dtype=torch.bfloat16)
    check(layer, level, DEFAULT.block_k, tma)
