"""Decode attention: equal to attention by its formula, and a query's bits don't depend on who shares its pages."""

import pytest
import torch
from tiny_models import admit, tiny_config, tiny_decoder, tokens

from moe_lm.backends.page_attention import COLUMNS, MAX_COLUMNS, PageAttention
from moe_lm.engine.pages import PAGE, PagePool

CONFIGS = {
    "grouped": {"num_attention_heads": 12, "num_key_value_heads": 4},
    "seven to one": {"num_attention_heads": 14, "num_key_value_heads": 2, "head_dim": 64},
    "one to one": {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16},
    "window": {"num_attention_heads": 6, "num_key_value_heads": 2, "sliding_window": 150},
    "small window": {"num_attention_heads": 4, "num_key_value_heads": 1, "sliding_window": 3},
}


@pytest.fixture(params=CONFIGS)
def crowd(request):
    """A pool with 40 sequences, most of which share two whole pages and a part of a third."""
    model = tiny_decoder(tiny_config("mistral", **CONFIGS[request.param]))
    pool = PagePool(model, 200)
    shared = tokens(2 * PAGE + 30, seed=0)
    rng = torch.Generator().manual_seed(1)
    caches = []
    for i in range(40):
        prompt = (shared if i % 5 else shared[: i * 7]) + tokens(1 + i * 5, seed=i)
        cache = admit(pool, [*prompt, 0], len(prompt) + 1)
        for layer in range(len(pool.k)):
            start = cache.length
            k, v = torch.randn(2, pool.k[0].shape[1], len(prompt) - start, pool.k[0].shape[3], generator=rng)
            cache.extend(layer, k, v)
            if layer < len(pool.k) - 1:
                assert cache.length == start
        cache.remember(prompt)
        cache.grow(len(prompt) + 1)
        caches.append(cache)
    config = model.config
    q = torch.randn(len(caches), config.num_attention_heads, config.head_dim, generator=rng)
    k, v = torch.randn(2, len(caches), config.num_key_value_heads, config.head_dim, generator=rng)
    return pool, caches, config.sliding_window, q, k, v


def found(crowd, some):
    pool, caches, window, q, k, v = crowd
    return PageAttention(pool, [caches[i] for i in some], window).attend(1, q[some], k[some], v[some])


def test_equals_the_formula(crowd):
    pool, caches, window, q, _, _ = crowd
    out = found(crowd, list(range(40)))
    assert len({cache.pages[0] for cache in caches}) < 20
    G = q.shape[1] // pool.k[0].shape[1]
    for i, cache in enumerate(caches):
        S = cache.length + 1
        k, v = (torch.cat([pages[1][page] for page in cache.pages], dim=1)[:, :S].double() for pages in (pool.k, pool.v))
        k, v = (x[:, max(0, S - window) if window else 0 :].repeat_interleave(G, dim=0) for x in (k, v))
        weights = torch.softmax(torch.einsum("hd,hsd->hs", q[i].double(), k) * q.shape[2] ** -0.5, dim=-1)
        assert torch.allclose(out[i].double(), torch.einsum("hs,hsd->hd", weights, v), atol=2e-6, rtol=0)


def test_bits_do_not_depend_on_the_neighbours(crowd):
    whole = found(crowd, list(range(40)))
    for i in range(40):
        assert torch.equal(found(crowd, [i])[0], whole[i])
    for some in (list(range(0, 40, 2)), [39, 3, 17], [1, 2]):
        assert torch.equal(found(crowd, some), whole[some])


@pytest.mark.parametrize("d", [8, 40, 64, 128, 256])
def test_a_column_is_the_same_for_any_number_of_columns(d):
    """What the page products rely on, and MKL does not promise."""
    rng = torch.Generator().manual_seed(d)
    pages, values, queries = (
        torch.randn(12, PAGE, d, generator=rng),
        torch.rand(12, PAGE, MAX_COLUMNS, generator=rng),
        torch.randn(12, d, MAX_COLUMNS, generator=rng),
    )
    ones = torch.ones(COLUMNS, PAGE)
    scores, out, total = torch.bmm(pages, queries), torch.bmm(pages.transpose(1, 2), values), torch.bmm(ones.expand(12, -1, -1), values)
    for B in (1, 2, 5, 12):
        for C in range(COLUMNS, MAX_COLUMNS + 1, COLUMNS):
            for begin in {0, MAX_COLUMNS - C}:
                columns = slice(begin, begin + C)
                assert torch.equal(torch.bmm(pages[:B], queries[:B, :, columns].contiguous()), scores[:B, :, columns])
                assert torch.equal(torch.bmm(pages[:B].transpose(1, 2), values[:B, :, columns].contiguous()), out[:B, :, columns])
                assert torch.equal(torch.bmm(ones.expand(B, -1, -1), values[:B, :, columns].contiguous()), total[:B, :, columns])
