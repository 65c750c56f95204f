"""What the tests of the CPU kernels share: random tensors, exact results, a switch between the variants of the library."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import Tensor

from moe_lm.backends.cpu import library
from moe_lm.backends.cpu.launch import PAGE, TokenPlaces
from moe_lm.quant.grouped import GroupedWeight
from moe_lm.quant.ordered import OrderedWeight
from moe_lm.quant.weight import Blocks, QuantizedWeight

needs_kernels = pytest.mark.skipif(not library.available(), reason="the CPU kernels are not built here")
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def random_blocks(kind: str, *shape: int, seed: int = 0) -> QuantizedWeight:
    """Blocks of random bytes for [E, O, K] weights, their float16 numbers about 0.01 and of either sign."""
    *rows, K = shape
    weights, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(256, (*rows, K // weights, nbytes), generator=generator, dtype=torch.uint8)
    halves = {"Q8_0": [0], "Q4_0": [0], "Q5_0": [0], "Q6_K": [nbytes - 2]}.get(kind, [0, 2])
    for at in halves:
        numbers = 0.01 * torch.randn(*rows, K // weights, 1, generator=generator)
        blocks[..., at : at + 2] = numbers.half().view(torch.uint8)
    return QuantizedWeight(kind, blocks.flatten(2), K)


def random_groups(E: int, outputs: int, inputs: int, group_size: int, seed: int = 0) -> GroupedWeight:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(256, (E, outputs, inputs // 2), generator=generator, dtype=torch.uint8)
    zeros = torch.randint(17, (E, outputs, inputs // group_size), generator=generator, dtype=torch.uint8)
    scales = (0.01 * torch.rand(zeros.shape, generator=generator)).half().float()
    return GroupedWeight(codes, scales, zeros, inputs, group_size)


def random_order(weight: Blocks, seed: int = 0) -> OrderedWeight:
    """The same codes for inputs in another order, each matrix's its own."""
    generator = torch.Generator().manual_seed(seed)
    places = [torch.randperm(weight.inputs, generator=generator, dtype=torch.int32) for _ in range(weight.shape[0])]
    return OrderedWeight(weight, torch.stack(places))


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def random_routing(T: int, E: int, K: int) -> Tensor:
    return torch.stack([torch.randperm(E, generator=torch.Generator().manual_seed(t))[:K] for t in range(T)])


# three sequences on scattered pages; the first and the third share their first page
LENGTHS = (PAGE + 5, 1, 2 * PAGE + 57)
TABLE = torch.tensor([[4, 2, 0], [6, 0, 0], [4, 1, 5]], dtype=torch.int32)
NUM_PAGES = 7


def three_sequences() -> TokenPlaces:
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).int()
    sequences = torch.arange(3).repeat_interleave(torch.tensor(LENGTHS)).int()
    return TokenPlaces(positions, sequences, TABLE)


def exact_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """One sequence's attention in float64. [T, H, d] -> [T, H, d]"""
    T, H, _ = q.shape
    visible = torch.ones(T, T, dtype=torch.bool).tril()
    if window:
        visible = visible.triu(1 - window)
    q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
    k, v = (x.repeat_interleave(H // len(k), dim=0) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(0, 1)


@contextmanager
def variant(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The launchers call this variant of the library."""
    with monkeypatch.context() as changed:
        changed.setenv(library.VARIANT_VARIABLE, name)
        library.load.cache_clear()
        yield
    library.load.cache_clear()
