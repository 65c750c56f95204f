"""Decode attention over pages: float64 within rounding, and the same bits however the work was shared out."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton (pip install 'evalkit-lm[gpu]')")

import cases

from moe_lm.backends import formulas
from moe_lm.backends.cuda.paged_attention import append, paged_attention

N = 16  # tokens a page
SMALL = {"split": 32, "block_s": 16}


def pool(device, lengths, H=4, J=2, d=8, dtype=torch.float32, seed=0, shared_tokens=0, N=N):
    """Queries, pages in a random order (those that no sequence owns full of NaN), table and lengths."""
    rng = torch.Generator().manual_seed(seed)
    B, M = len(lengths), max(1, -(-max(lengths) // N))
    pages = torch.randperm(B * M + 3, generator=rng)
    k, v = (torch.randn(B * M + 3, J, N, d, generator=rng).to(device, dtype) for _ in range(2))
    table = pages[: B * M].view(B, M).int()
    table[:, : shared_tokens // N] = table[0, : shared_tokens // N]
    k[pages[B * M :].to(device)] = torch.nan
    v[pages[B * M :].to(device)] = torch.nan
    q = torch.randn(B, H, d, generator=rng).to(device, dtype)
    return q, k, v, table.to(device), torch.tensor(lengths, dtype=torch.int32, device=device)


ROUNDINGS = 4 * 2**-23  # of float32, which sums of some dozen terms may be off by


def check(inputs, window=None, **options):
    found = paged_attention(*inputs, window, **options)
    q, k, v, table, lengths = inputs
    expected = formulas.paged_attention(q.double(), k.double(), v.double(), table, lengths, window)
    own = cases.error(formulas.paged_attention(*inputs, window), expected)
    assert found.dtype == q.dtype
    # one rounding of probabilities or output may be luckier in torch's, which differs from processor to processor
    assert cases.error(found, expected) <= max(1.5 * own, ROUNDINGS)
    return found


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("H", "J"), [(2, 2), (3, 1)])
def test_against_float64(device, H, J, dtype, fused):
    check(pool(device, [1, 70], H, J, dtype=dtype), fused=fused, **SMALL)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("window", [1, 20, 32, 500])
def test_sliding_window(device, window, fused):
    check(pool(device, [33, 70], 1, 1), window, fused=fused, **SMALL)


def test_a_head_dim_that_is_no_power_of_two(device):
    check(pool(device, [40], d=24), **SMALL)


def test_more_query_heads_a_group_than_rows(device):
    check(pool(device, [20], H=20, J=1), **SMALL)


def test_an_empty_sequence_gives_zeros(device):
    for fused in (True, False):
        found = paged_attention(*pool(device, [0, 5]), fused=fused, **SMALL)
        assert not found[0].any()
        assert found[1].any()


@pytest.mark.parametrize(("window", "dtype"), [(None, torch.float32), (40, torch.bfloat16)])
def test_splits_apart_or_together_give_the_same_bits(device, window, dtype):
    inputs = pool(device, [1, 64, 70], 2, 1, dtype=dtype)
    fused, apart = (paged_attention(*inputs, window, fused=fused, **SMALL) for fused in (True, False))
    cases.assert_same(fused, apart)


@pytest.mark.parametrize("fused", [True, False])
def test_a_sequence_does_not_depend_on_its_neighbours(device, fused):
    q, k, v, table, lengths = pool(device, [70, 3, 40], 2, 1)
    together = paged_attention(q, k, v, table, lengths, fused=fused, **SMALL)
    for order in ([2], [1, 0]):
        alone = paged_attention(q[order], k, v, table[order], lengths[order], fused=fused, **SMALL)
        cases.assert_same(alone, together[order])


@pytest.mark.parametrize(
    ("H", "J", "window", "dtype"), [(1, 1, None, torch.float32), (12, 1, None, torch.bfloat16), (2, 1, 50, torch.bfloat16)]
)
def test_a_shared_prefix_gives_the_same_bits(device, H, J, window, dtype):
    """64 tokens of shared pages are two splits (of 50, one is whole); of 12 heads, two sequences go at a time."""
    inputs = pool(device, [65, 80, 97], H, J, dtype=dtype, shared_tokens=64)
    apart = check(inputs, window, **SMALL)
    for shared_tokens in (64, 50):
        cases.assert_same(paged_attention(*inputs, window, shared_tokens=shared_tokens, **SMALL), apart)


def test_append_puts_tokens_where_attention_finds_them(device):
    q, k, v, table, lengths = pool(device, [16, 17])
    new_k, new_v = torch.ones(2, 2, 8, device=device), torch.full((2, 2, 8), 2.0, device=device)
    append(k, v, table, lengths.long() - 1, new_k, new_v)
    assert torch.equal(k[table[0, 0].item(), :, 15], new_k[0])
    assert torch.equal(v[table[1, 1].item(), :, 0], new_v[1])
    assert torch.equal(paged_attention(q, k, v, table, lengths, 1, **SMALL), torch.full_like(q, 2.0))


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 1000])
@pytest.mark.parametrize(("H", "J", "d"), [(16, 16, 128), (14, 2, 64), (9, 3, 64)])
def test_at_real_shapes(gpu, H, J, d, window):
    """Qwen1.5-MoE, Qwen2.5-0.5B, SmolLM2-135M; bit for bit between all ways of sharing out the work."""
    rng = torch.Generator().manual_seed(1)
    lengths = (1308 + torch.randint(1, 700, (32,), generator=rng)).tolist()
    inputs = pool(gpu, lengths, H, J, d, torch.bfloat16, shared_tokens=1296)
    found = check(inputs, window)
    for options in ({"fused": True}, {"fused": False}, {"shared_tokens": 1296}):
        assert torch.equal(paged_attention(*inputs, window, **options), found)
    q, k, v, table, lengths = inputs
    assert torch.equal(paged_attention(q[5:6], k, v, table[5:6], lengths[5:6], window), found[5:6])
