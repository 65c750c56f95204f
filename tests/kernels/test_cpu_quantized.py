"""Products with packed blocks: exactly those of the float32 numbers that the blocks stand for, or llama.cpp's with integers."""

from functools import partial

import numpy as np
import pytest
import torch
from cpu_cases import needs_kernels, random, random_blocks, random_groups, random_order, random_routing, relative_error
from int8_products import grouped_product, product

from moe_lm.backends.cpu.launch import gemm
from moe_lm.backends.cpu.moe import routed_experts
from moe_lm.backends.cpu.pack import PackedMatrix
from moe_lm.backends.cpu.pack_quantized import PackedBlocks, Stripes
from moe_lm.quant.grouped import GroupedWeight
from moe_lm.quant.kinds import GROUPS, KINDS
from moe_lm.quant.ordered import OrderedWeight
from moe_lm.quant.weight import QuantizedWeight

pytestmark = needs_kernels

every_kind = pytest.mark.parametrize("kind", KINDS)
both_modes = pytest.mark.parametrize("int8", [False, True], ids=["exact", "int8"])


def inputs_of(kind):
    return 768 if kind.endswith("K") else 416


@every_kind
@pytest.mark.parametrize(("rows", "outputs"), [(1, 16), (2, 47), (5, 70), (13, 48), (70, 101), (130, 16)])
def test_exact_products_have_the_bits_of_float32(kind, rows, outputs, threads):
    weight, bias, x = random_blocks(kind, 1, outputs, inputs_of(kind)), random(outputs, seed=2), random(rows, inputs_of(kind))
    expected = gemm(x, PackedMatrix.of(weight.dequantized(), bias))
    assert torch.equal(gemm(x, PackedBlocks.of(weight, bias)), expected)


@every_kind
@pytest.mark.parametrize("width", [5, 24, 48, 100])
def test_exact_gated_products_have_the_bits_of_float32(kind, width, threads):
    gate, up = (random_blocks(kind, 1, width, inputs_of(kind), seed=seed) for seed in (0, 1))
    for activation in ("silu", "gelu_tanh"):
        for rows in (1, 3, 70):
            x = random(rows, inputs_of(kind), seed=2)
            expected = gemm(x, PackedMatrix.gated(gate.dequantized(), up.dequantized(), activation))
            assert torch.equal(gemm(x, PackedBlocks.gated(gate, up, activation)), expected)


@every_kind
@pytest.mark.parametrize(("rows", "outputs"), [(1, 16), (2, 47), (5, 70), (70, 33)])
def test_integer_products_are_those_of_llama_cpp(kind, rows, outputs, threads):
    weight, x = random_blocks(kind, 1, outputs, inputs_of(kind)), random(rows, inputs_of(kind))
    assert relative_error(gemm(x, PackedBlocks.of(weight), int8=True), product(x, weight)) < 1e-6


@both_modes
@every_kind
def test_a_row_has_the_same_bits_among_any_number_of_rows(kind, int8, threads):
    packed, x = PackedBlocks.of(random_blocks(kind, 1, 70, inputs_of(kind))), random(140, inputs_of(kind))
    alone = torch.cat([gemm(row[None], packed, int8=int8) for row in x])
    for begin, end in [(0, 140), (0, 64), (1, 50), (7, 19), (8, 21), (138, 140)]:
        assert torch.equal(gemm(x[begin:end], packed, int8=int8), alone[begin:end])
    order = torch.tensor([5, 3, 139, 3, 0])
    assert torch.equal(gemm(x, packed, order_R=order, int8=int8), alone[order])


@both_modes
def test_weights_of_several_kinds_are_one_product(int8, threads):
    kinds, x = {"Q5_0": 100, "Q8_0": 7, "Q6_K": 33, "Q4_K": 64}, random(9, 512)
    weights = [random_blocks(kind, 1, outputs, 512, seed=outputs) for kind, outputs in kinds.items()]
    bias = random(sum(kinds.values()))
    each = torch.cat([gemm(x, PackedBlocks.of(weight), int8=int8) for weight in weights], dim=1)
    assert torch.equal(gemm(x, PackedBlocks.of(weights, bias), int8=int8), each + bias)
    gate, up = (random_blocks(kind, 1, 70, 512) for kind in ("Q6_K", "Q5_0"))
    x = random(5, 512)
    both = gemm(x, PackedBlocks.gated(gate, up, "silu"), int8=int8)
    sides = [gemm(x, PackedBlocks.of(side), int8=int8).double() for side in (gate, up)]
    assert relative_error(both, torch.nn.functional.silu(sides[0]) * sides[1]) < 1e-6


@pytest.mark.parametrize("group_size", [32, 64, 96, 128, 256, 768])
def test_groups_of_codes(group_size, threads):
    """Exactly as float32 numbers, with integers as Q8_0 activations; a group may be all inputs."""
    for rows, outputs in [(1, 47), (3, 16), (6, 50), (70, 33)]:
        weight, other, x = random_groups(1, outputs, 768, group_size), random_groups(1, outputs, 768, group_size, 1), random(rows, 768)
        packed, bias = PackedBlocks.of([weight, other]), random(2 * outputs)
        both = torch.cat((weight.dequantized(), other.dequantized()), dim=1)
        assert torch.equal(gemm(x, PackedBlocks.of([weight, other], bias)), gemm(x, PackedMatrix.of(both, bias)))
        ids = torch.tensor([0, outputs - 1])
        assert torch.equal(PackedBlocks.of(weight).rows(ids), weight.dequantized()[0, ids])
        gated = PackedMatrix.gated(weight.dequantized(), other.dequantized(), "silu")
        assert torch.equal(gemm(x, PackedBlocks.gated(weight, other, "silu")), gemm(x, gated))
        whole = gemm(x, packed, int8=True)
        assert relative_error(whole[:, :outputs], grouped_product(x, weight)) < 1e-6
        assert relative_error(whole[:, outputs:], grouped_product(x, other)) < 1e-6
        assert torch.equal(torch.cat([gemm(row[None], packed, int8=True) for row in x]), whole)


@pytest.mark.parametrize("kind", ["Q8_0", *GROUPS])
def test_inputs_in_an_order_of_their_own(kind, threads):
    """Exactly as float32 numbers, which are added in the order of the inputs; in int8 as the blocks have them."""
    make = partial(random_groups, group_size=GROUPS[kind]) if kind in GROUPS else partial(random_blocks, kind)
    for rows, outputs in [(1, 47), (3, 16), (6, 50), (70, 33), (130, 100)]:
        weight, other = (random_order(make(1, outputs, 768, seed=seed)) for seed in (0, 1))
        x, bias = random(rows, 768), random(2 * outputs)
        packed, blocks = PackedBlocks.of([weight, other], bias), PackedBlocks.of([weight.blocks, other.blocks], bias)
        both = torch.cat((weight.dequantized(), other.dequantized()), dim=1)
        assert torch.equal(gemm(x, packed), gemm(x, PackedMatrix.of(both, bias)))
        gated = PackedMatrix.gated(weight.dequantized(), other.dequantized(), "silu")
        assert torch.equal(gemm(x, PackedBlocks.gated(weight, other, "silu")), gemm(x, gated))
        ids = torch.tensor([0, outputs - 1])
        assert torch.equal(PackedBlocks.of(weight).rows(ids), weight.dequantized()[0, ids])
        in_blocks = torch.empty_like(x)
        in_blocks[:, weight.places[0]] = x
        whole = gemm(x, packed, int8=True)
        assert torch.equal(whole, gemm(in_blocks, blocks, int8=True))
        assert torch.equal(torch.cat([gemm(row[None], packed, int8=True) for row in x]), whole)


@both_modes
def test_experts_each_with_an_order_of_its_own(int8, threads):
    E, D, F, T, K = 5, 256, 384, 20, 2
    gate, up, down = (random_order(random_groups(E, *shape, 128, seed=i), i // 2) for i, shape in enumerate([(F, D), (F, D), (D, F)]))
    x, ids, weights = random(T, D), random_routing(T, E, K), random(T, K, seed=4).abs()
    packed = PackedBlocks.gated(gate, up, "silu"), PackedBlocks.of(down)
    found = routed_experts(x, weights, ids, *packed, int8=int8)
    gates, ups, downs = (each.dequantized() for each in (gate, up, down))
    if not int8:
        assert torch.equal(found, routed_experts(x, weights, ids, PackedMatrix.gated(gates, ups, "silu"), PackedMatrix.of(downs)))
    alone = [routed_experts(x[t : t + 1], weights[t : t + 1], ids[t : t + 1], *packed, int8=int8) for t in range(T)]
    assert torch.equal(torch.cat(alone), found)
    expected = torch.zeros(T, D, dtype=torch.float64)
    for t, k in np.ndindex(T, K):
        e = ids[t, k]
        hidden = torch.nn.functional.silu(gates[e] @ x[t]) * (ups[e] @ x[t])
        expected[t] += weights[t, k].double() * (downs[e] @ hidden).double()
    assert relative_error(found, expected) < (0.02 if int8 else 1e-5)


def test_groups_take_the_room_that_their_file_takes():
    weight = random_groups(2, 64, 1024, 128)
    in_file = weight.codes.nbytes + weight.scales.numel() * 2 + weight.zeros.numel() / 2
    assert PackedBlocks.of(weight).nbytes < 1.05 * in_file
    for kind in KINDS:
        blocks = random_blocks(kind, 2, 64, 1024)
        assert PackedBlocks.of(blocks).nbytes == blocks.blocks.nbytes


@both_modes
def test_a_product_is_added_to_the_output(int8, threads):
    packed = PackedBlocks.of(random_blocks("Q4_K", 1, 70, 512))
    x, base, scales = random(50, 512, seed=1), random(50, 70, seed=2), random(50, seed=3)
    out = base.clone()
    assert gemm(x, packed, out=out, accumulate=True, int8=int8) is out
    assert torch.equal(out, base + gemm(x, packed, int8=int8))
    out = base.clone()
    gemm(x, packed, out=out, accumulate=True, row_scales_M=scales, int8=int8)
    assert relative_error(out, base.double() + scales.double()[:, None] * gemm(x, packed, int8=int8).double()) < 1e-6


def test_a_matrix_of_floats_is_never_computed_in_integers():
    x, matrix = random(3, 64), PackedMatrix.of(random(1, 20, 64, seed=1))
    assert torch.equal(gemm(x, matrix, int8=True), gemm(x, matrix))


@every_kind
def test_an_embedding_is_read_from_the_packed_head(kind):
    weight = random_blocks(kind, 1, 101, inputs_of(kind))
    ids = torch.tensor([0, 15, 16, 100, 3])
    assert torch.equal(PackedBlocks.of(weight).rows(ids), weight.dequantized()[0, ids])


@both_modes
@every_kind
def test_experts(kind, int8, threads):
    E, D, F, T, K = 5, 256, 512, 40, 2
    gate, up, down = (random_blocks(kind, E, *shape, seed=seed) for seed, shape in enumerate([(F, D), (F, D), (D, F)]))
    x, ids = random(T, D), torch.stack([torch.randperm(E, generator=torch.Generator().manual_seed(t))[:K] for t in range(T)])
    weights = random(T, K, seed=4).abs()
    packed = PackedBlocks.gated(gate, up, "silu"), PackedBlocks.of(down)
    found = routed_experts(x, weights, ids, *packed, int8=int8)
    if not int8:
        as_float32 = PackedMatrix.gated(gate.dequantized(), up.dequantized(), "silu"), PackedMatrix.of(down.dequantized())
        assert torch.equal(found, routed_experts(x, weights, ids, *as_float32))
    first = gemm(
        gemm(x[:1], packed[0].of_experts(ids[0, 0], ids[0, 0] + 1), int8=int8), packed[1].of_experts(ids[0, 0], ids[0, 0] + 1), int8=int8
    )
    second = gemm(
        gemm(x[:1], packed[0].of_experts(ids[0, 1], ids[0, 1] + 1), int8=int8), packed[1].of_experts(ids[0, 1], ids[0, 1] + 1), int8=int8
    )
    assert relative_error(found[:1], weights[0, 0].double() * first.double() + weights[0, 1].double() * second.double()) < 1e-6


@pytest.mark.parametrize("activation", ["none", "silu"])
def test_what_is_not_finite_is_not_hidden_by_integers(activation):
    for kind in ("Q8_0", "Q4_K"):
        weight, x = random_blocks(kind, 1, 20, 512), random(4, 512)
        x[1, 7], x[2, 300] = float("nan"), float("inf")
        packed = PackedBlocks.of(weight) if activation == "none" else PackedBlocks.gated(weight, weight, activation)
        found = gemm(x, packed, int8=True)
        assert found[[1, 2]].isnan().all()
        assert found[[0, 3]].isfinite().all()


def test_rows_of_zeros_and_of_the_smallest_numbers():
    for kind in KINDS:
        packed = PackedBlocks.of(random_blocks(kind, 1, 20, 512))
        for x in (torch.zeros(1, 512), torch.full((1, 512), 1e-44)):
            assert (gemm(x, packed, int8=True).abs() <= 1e-37).all()


def test_an_outlier_does_not_overflow():
    """The largest weights times the largest activations, where 16-bit sums would overflow first."""
    for kind in KINDS:
        weight = random_blocks(kind, 1, 16, 512)
        blocks = weight.blocks.view(16, -1, weight.blocks.shape[2] * (256 if kind.endswith("K") else 32) // 512).clone()
        keep = {"Q6_K": slice(208, 210), "Q4_K": slice(0, 16), "Q5_K": slice(0, 16)}.get(kind, slice(0, 4 if kind.endswith("1") else 2))
        for byte in (0xFF, 0x80, 0x7F):
            full = torch.full_like(blocks, byte)
            full[..., keep] = blocks[..., keep]
            whole = QuantizedWeight(kind, full.view_as(weight.blocks), 512)
            for x in (torch.full((1, 512), 3.0), torch.full((1, 512), -3.0), torch.tensor([3.0, -3.0]).repeat(1, 256)):
                found, expected = gemm(x, PackedBlocks.of(whole), int8=True), product(x, whole)
                assert (found - expected).abs().max() <= 1e-5 * expected.abs().max() + 1e-6


def with_places(place):
    """Packed weights of which an input is nowhere."""
    packed = PackedBlocks.of(random_order(random_groups(1, 4, 64, 32)))
    packed.places[0, 63] = place
    return packed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gemm(random(2, 32), PackedBlocks.of(random_blocks("Q4_0", 1, 4, 64))), "x is"),
        (lambda: gemm(random(2, 64), PackedBlocks.of(random_blocks("Q4_0", 3, 4, 64)), torch.tensor([0, 2])), "offsets is"),
        (lambda: gemm(random(2, 64), PackedBlocks.of(random_blocks("Q4_0", 1, 4, 64)), torch.tensor([0, 3])), "offsets do not rise"),
        (lambda: PackedBlocks.of([]), "got none"),
        (lambda: PackedBlocks.of([random_blocks("Q4_0", 1, 4, 64), random_blocks("Q4_0", 1, 4, 96)]), "as many matrices and inputs"),
        (lambda: PackedBlocks.of([random_blocks("Q4_0", 1, 4, 64), random_blocks("Q4_0", 2, 4, 64)]), "as many matrices and inputs"),
        (lambda: PackedBlocks.of(random_blocks("Q4_0", 1, 4, 64), random(5)), "bias is"),
        (lambda: PackedBlocks.gated(*(random_blocks("Q4_0", 1, outputs, 64) for outputs in (4, 5)), "silu"), "the same shape"),
        (lambda: PackedBlocks.gated(*(random_blocks("Q4_0", 1, 4, 64) for _ in "ab"), "relu"), "activation is 'relu'"),
        (lambda: PackedBlocks((Stripes("Q4_0", torch.zeros(1, 1, 287, dtype=torch.uint8), 4),), 32), "packed Q4_0 is uint8"),
        (lambda: PackedBlocks((Stripes("Q4_0", torch.zeros(1, 1, 288, dtype=torch.uint8), 17),), 32), "packed Q4_0 is uint8"),
        (lambda: PackedBlocks((Stripes("Q9", torch.zeros(1, 1, 288, dtype=torch.uint8), 4),), 32), "kind is 'Q9'"),
        (lambda: PackedBlocks((Stripes("Q4_K", torch.zeros(1, 1, 288, dtype=torch.uint8), 4),), 32), "blocks of 256 weights"),
        (lambda: PackedBlocks.of(random_blocks("Q4_0", 1, 4, 64)).rows(torch.tensor([0, 4])), "the highest of ids is 4"),
        (lambda: PackedBlocks.of(random_blocks("Q4_0", 1, 4, 64)).rows(torch.tensor([-1])), "the lowest of ids is -1"),
        (lambda: PackedBlocks.of(random_blocks("Q4_0", 1, 4, 64)).rows(torch.tensor([1.0])), "ids is float32"),
        (lambda: PackedBlocks.of([random_blocks("Q4_0", 1, 4, 64)] * 2).rows(torch.tensor([1])), "rows are read from one weight"),
        (lambda: random_groups(1, 4, 128, 48), "in groups of 48; wanted: whole groups"),
        (lambda: random_groups(1, 4, 160, 64), "160 inputs in groups of 64"),
        (lambda: GroupedWeight(*[torch.zeros(1, 4, 16, dtype=torch.uint8)] * 3, 32, 32), "scales are uint8"),
        (lambda: GroupedWeight(torch.zeros(1, 4, 17), torch.zeros(1, 4, 1), torch.zeros(1, 4, 1), 32, 32), "codes are float32"),
        (lambda: PackedBlocks((Stripes("GROUP_64", torch.zeros(1, 1, 16 * 21, dtype=torch.uint8), 4),), 32), "GROUP_64 has blocks of 64"),
        (lambda: PackedBlocks((Stripes("GROUP_32", torch.zeros(1, 1, 16 * 20, dtype=torch.uint8), 4),), 32), "packed GROUP_32 is uint8"),
        (lambda: OrderedWeight(random_groups(1, 4, 64, 32), torch.zeros(1, 64, dtype=torch.int32)), "two inputs of a matrix one place"),
        (lambda: OrderedWeight(random_groups(1, 4, 64, 32), torch.arange(64, dtype=torch.int32)), "wanted: int32 \\[1, 64\\]"),
        (lambda: PackedBlocks.of([random_order(random_groups(1, 4, 64, 32), seed) for seed in (0, 1)]), "in one order; these differ"),
        (lambda: PackedBlocks.of([random_groups(1, 4, 64, 32), random_order(random_groups(1, 4, 64, 32))]), "in one order; these differ"),
        (lambda: gemm(random(2, 64), with_places(64)), "places has an input"),
        (lambda: gemm(random(2, 64), with_places(-1), int8=True), "places has an input"),
        (lambda: QuantizedWeight("Q4_0", torch.zeros(1, 4, 19, dtype=torch.uint8), 32), "blocks of Q4_0 for 32 inputs are uint8"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
