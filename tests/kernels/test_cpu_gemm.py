"""Products with packed weights: equal to float64 within float32's rounding, and no row's bits depend on the rows beside it."""

import pytest
import torch
import torch.nn.functional as F
from cpu_cases import both_dtypes, needs_kernels, random, relative_error

from moe_lm.backends.cpu.launch import gemm
from moe_lm.backends.cpu.pack import HALF, PANEL, PackedMatrix

pytestmark = needs_kernels

SHAPES = [(1, 1, 1), (3, 31, 7), (12, 32, 256), (13, 33, 257), (48, 96, 300), (50, 600, 40), (241, 70, 600), (500, 290, 64)]


@both_dtypes
@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_a_product_with_bias(rows, outputs, inputs, dtype, threads):
    x, weight, bias = random(rows, inputs), random(outputs, inputs, seed=1, dtype=dtype), random(outputs, seed=2)
    packed = PackedMatrix.of(weight[None], bias)
    assert relative_error(gemm(x, packed), x.double() @ weight.double().t() + bias.double()) < 1e-6
    assert torch.equal(gemm(x.bfloat16(), packed), gemm(x.bfloat16().float(), packed).bfloat16())


@both_dtypes
def test_a_row_has_the_same_bits_among_any_number_of_rows(dtype, threads):
    for outputs, inputs in ((70, 600), (256, 896)):
        packed, x = PackedMatrix.of(random(1, outputs, inputs, seed=1, dtype=dtype)), random(300, inputs)
        alone = torch.cat([gemm(row[None], packed) for row in x])
        for begin, end in [(0, 300), (0, 240), (1, 50), (7, 19), (8, 21), (290, 292)]:
            assert torch.equal(gemm(x[begin:end], packed), alone[begin:end])


@pytest.mark.parametrize(("activation", "exact"), [("silu", F.silu), ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"))])
@pytest.mark.parametrize("width", [5, HALF, HALF + 1, 100])
def test_a_gated_product(activation, exact, width):
    gate, up, x = random(1, width, 48), random(1, width, 48, seed=1), 3 * random(30, 48, seed=2)
    packed = PackedMatrix.gated(gate, up, activation)
    assert relative_error(gemm(x, packed), exact(x.double() @ gate[0].double().t()) * (x.double() @ up[0].double().t())) < 1e-6
    assert gemm(x * 1e3, packed).isfinite().all()  # where e^x would overflow


def test_a_product_is_added_to_the_output(threads):
    packed = PackedMatrix.of(random(1, 70, 600))
    x, base, scales = random(50, 600, seed=1), random(50, 70, seed=2), random(50, seed=3)
    out = base.clone()
    assert gemm(x, packed, out=out, accumulate=True) is out
    assert torch.equal(out, base + gemm(x, packed))
    out = base.clone()
    gemm(x, packed, out=out, accumulate=True, row_scales_M=scales)
    assert relative_error(out, base.double() + scales.double()[:, None] * gemm(x, packed).double()) < 1e-6


def test_an_embedding_is_read_from_the_packed_head():
    weight = random(PANEL * 2 + 5, 24)
    ids = torch.tensor([0, PANEL - 1, PANEL, 2 * PANEL + 4, 3])
    assert torch.equal(PackedMatrix.of(weight[None]).rows(ids), weight[ids])
