"""The norm and the rotary embedding: equal to float64 within float32's rounding, row by row."""

import pytest
import torch
from cpu_cases import needs_kernels, random, relative_error

from moe_lm.backends.cpu.launch import rms_norm, rope_

pytestmark = needs_kernels


@pytest.mark.parametrize(("width", "offset"), [(48, 0.0), (100, 1.0), (7, 0.0), (896, 0.0)])
def test_rms_norm(width, offset, threads):
    x, weight = random(50, width), random(width, seed=1)
    found = rms_norm(x, weight, 1e-5, offset)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * (offset + weight.double())
    assert relative_error(found, exact) < 1e-6
    assert torch.equal(torch.cat([rms_norm(row[None], weight, 1e-5, offset) for row in x]), found)


@pytest.mark.parametrize("d", [2, 8, 20, 64])
def test_rope_rotates_the_first_heads(d, threads):
    """Two heads of three."""
    angles = random(40, d // 2, seed=1)
    x = random(40, 3 * d)
    found = x.clone()
    rope_(found, angles.cos(), angles.sin(), heads=2)
    lower, upper = x.double().view(40, 3, 2, d // 2).unbind(2)
    cos, sin = angles.cos().double()[:, None], angles.sin().double()[:, None]
    exact = torch.cat((lower * cos - upper * sin, upper * cos + lower * sin), dim=-1)
    assert relative_error(found.view(40, 3, d)[:, :2], exact[:, :2]) < 1e-6
    assert torch.equal(found[:, 2 * d :], x[:, 2 * d :])
    some = x[7:12].clone()
    rope_(some, angles[7:12].cos(), angles[7:12].sin(), heads=2)
    assert torch.equal(some, found[7:12])
