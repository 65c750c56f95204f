"""The libraries for AVX2, AVX-512 and AVX-512 with VNNI give the same bits, for every launcher."""

from functools import partial

import pytest
import torch
from cpu_cases import NUM_PAGES, needs_kernels, random, random_blocks, random_groups, random_order, three_sequences, variant

from moe_lm.backends.cpu import build, library
from moe_lm.backends.cpu.launch import (
    append_kv,
    gemm,
    k_quants,
    logsumexp,
    page_shape,
    paged_attention,
    rms_norm,
    rope_,
    rotation,
    route,
    sigmoid,
)
from moe_lm.backends.cpu.pack import PackedMatrix
from moe_lm.backends.cpu.pack_quantized import PACKED_KINDS, PackedBlocks
from moe_lm.quant.kinds import GROUPS, KINDS

pytestmark = [
    needs_kernels,
    pytest.mark.skipif(not library.FEATURES["avx512"] <= library.processor_features(), reason="this processor has no AVX-512"),
]


def products(rows, outputs, inputs, dtype):
    x, plain = random(rows, inputs), PackedMatrix.of(random(1, outputs, inputs, seed=1, dtype=dtype), random(outputs, seed=2))
    silu, gelu = (PackedMatrix.gated(*(3 * random(2, 1, outputs, inputs, seed=3)).to(dtype), name) for name in ("silu", "gelu_tanh"))
    added = random(rows, outputs, seed=4)
    gemm(x, plain, out=added, accumulate=True, row_scales_M=random(rows, seed=5))
    return [gemm(x, plain), gemm(x, silu), gemm(x, gelu), added]


def quantized_products(rows, outputs, kind, int8, is_ordered=False):
    make = partial(random_blocks, kind) if kind in KINDS else lambda *shape, seed: random_groups(*shape, GROUPS[kind], seed)
    x, weights = random(rows, 768), [make(1, outputs, 768, seed=seed) for seed in (1, 2)]
    weights = [random_order(each) for each in weights] if is_ordered else weights
    plain, gated = PackedBlocks.of(weights, random(2 * outputs, seed=3)), PackedBlocks.gated(*weights, "silu")
    return [gemm(x, plain, int8=int8), gemm(x, gated, int8=int8), PackedBlocks.of(weights[0]).rows(torch.arange(outputs))]


def attention(H, J, d, window):
    places = three_sequences()
    q, k, v = (random(len(places.positions), heads, d, seed=seed) for seed, heads in enumerate((H, J, J)))
    k_pages, v_pages = (torch.zeros(NUM_PAGES, J, *page_shape(which, d)) for which in "kv")
    append_kv(k, v, places, k_pages, v_pages)
    return [k_pages, v_pages, paged_attention(q, places, k_pages, v_pages, window)]


def norm_and_rope(rows, width):
    x = random(rows, width)
    rope_(x, *(random(rows, width // 4, seed=seed) for seed in (1, 2)), heads=1)
    return [x, rms_norm(x, random(width, seed=3), 1e-5), rms_norm(x, random(width, seed=4), 1e-6, 1.0)]


def softmaxes(rows, width):
    x = 4 * random(rows, width)
    return [*route(x, min(4, width), True), sigmoid(x[:, 0]), logsumexp(x), *rotation(torch.arange(rows).int(), random(width).abs())]


def blocks(rows):
    x = random(rows, 256)
    return [k_quants(x, bits) for bits in (4, 5, 6)]


PRODUCTS = [
    (1, 70, 300),
    (2, 48, 128),
    (5, 31, 7),
    (8, 96, 129),
    (13, 1, 1),
    (50, 70, 600),
    (96, 290, 64),
    (101, 24, 1000),
    (500, 100, 257),
]
QUANTIZED = [(1, 33), (2, 16), (7, 50), (33, 64), (70, 100)]
CASES = (
    [(products, (*shape, dtype)) for shape in PRODUCTS for dtype in (torch.float32, torch.bfloat16)]
    + [(quantized_products, (*shape, kind, int8)) for shape in QUANTIZED for kind in PACKED_KINDS for int8 in (False, True)]
    + [(quantized_products, (*shape, kind, int8, True)) for shape in QUANTIZED for kind in ("Q8_0", "GROUP_64") for int8 in (False, True)]
    + [(attention, shape) for shape in [(9, 3, 64, None), (8, 2, 256, 200), (6, 1, 40, 7), (2, 2, 200, 1), (64, 1, 96, None)]]
    + [(norm_and_rope, shape) for shape in [(1, 8), (50, 100), (3, 900)]]
    + [(softmaxes, shape) for shape in [(1, 1), (33, 60), (5, 5000)]]
    + [(blocks, (rows,)) for rows in (1, 2, 33)]
)


@pytest.mark.parametrize(("compute", "arguments"), CASES, ids=lambda part: getattr(part, "__name__", str(part)))
def test_all_variants_give_the_same_bits(compute, arguments, monkeypatch):
    found = {}
    sanitized = build.SANITIZED if library.chosen_variant().endswith(build.SANITIZED) else ""
    for name in ("avx2", "avx512", "avx512vnni"):
        if library.FEATURES[name] <= library.processor_features():
            with variant(name + sanitized, monkeypatch):
                found[name] = compute(*arguments)
    for name in found:
        for avx2, other in zip(found["avx2"], found[name], strict=True):
            assert torch.equal(avx2, other)
