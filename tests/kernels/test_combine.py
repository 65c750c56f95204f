"""The weighted sum over a token's slots."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton (pip install 'evalkit-lm[gpu]')")

import cases

from moe_lm.backends.cuda.combine import combine

T, D = 3, 1500  # more than one block of columns


def inputs(device, K, A, dtype, T=T, D=D):
    rng = torch.Generator().manual_seed(0)
    slots = torch.randn(T, K + A, D, generator=rng).to(device, dtype)
    weights = torch.rand(T, K, generator=rng).to(device)
    return slots, weights, torch.randn(T, generator=rng).to(device, dtype)


def expected(slots, weights, gate):
    K = weights.shape[1]
    out = (slots[:, :K].double() * weights.double()[:, :, None]).sum(1)
    shared = slots[:, K:].double().sum(1)
    return out + (shared if gate is None else torch.sigmoid(gate.double())[:, None] * shared)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-7), (torch.bfloat16, 3e-3)])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("K", "A"), [(1, 0), (4, 0), (4, 4), (2, 1)])
def test_sum(device, K, A, gated, dtype, bound):
    slots, weights, gate = inputs(device, K, A, dtype)
    gate = gate if gated else None
    found = combine(slots, weights, None, gate)
    assert found.dtype == dtype
    assert cases.error(found, expected(slots, weights, gate)) <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gated", [False, True])
def test_slices_and_their_sum_are_one(device, gated, dtype):
    slots, weights, gate = inputs(device, 3, 2, dtype)
    gate = gate if gated else None
    shared = (slots[:, 3].float() + slots[:, 4].float()).to(dtype)
    cases.assert_same(combine(slots, weights, None, gate), combine(slots[:, :3].contiguous(), weights, shared, gate))


def test_the_order_is_that_of_the_slots(device):
    slots = torch.tensor([1e8, 1.0, -1e8], device=device)[None, :, None].repeat(1, 1, 16)
    assert combine(slots, torch.ones(1, 3, device=device)).eq(0).all()  # (1e8 + 1) - 1e8 in float32
    swapped = slots[:, [0, 2, 1]].contiguous()
    assert combine(swapped, torch.ones(1, 3, device=device)).eq(1).all()


@pytest.mark.gpu
@pytest.mark.parametrize("T", [1, 512, 8192])
def test_at_qwen_moes_width(gpu, T):
    slots, weights, gate = inputs(gpu, 4, 4, torch.bfloat16, T, 2048)
    assert cases.error(combine(slots, weights, None, gate), expected(slots, weights, gate)) <= 3e-3
