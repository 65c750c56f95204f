"""Attention over pages: equal to float64 within float32's rounding, and no token's bits depend on the tokens beside it."""

import pytest
import torch
from cpu_cases import LENGTHS, NUM_PAGES, exact_attention, needs_kernels, random, relative_error, three_sequences

from moe_lm.backends.cpu.launch import PAGE, TokenPlaces, append_kv, page_shape, paged_attention

pytestmark = needs_kernels

ATTENTIONS = [
    (9, 3, 64, None),
    (14, 2, 64, None),
    (4, 4, 8, 7),
    (8, 2, 256, 200),
    (8, 1, 40, PAGE),
    (6, 6, 128, 1),
    (64, 1, 96, None),
    (4, 2, 200, 7),
]


@pytest.mark.parametrize(("H", "J", "d", "window"), ATTENTIONS)
def test_attention_over_pages(H, J, d, window, threads):
    """All tokens at once, only the last tokens of each sequence, and tokens alone."""
    places = three_sequences()
    q, k, v = (random(len(places.positions), heads, d, seed=seed) for seed, heads in enumerate((H, J, J)))
    for kv in (k, v):  # of the shared page
        kv[-LENGTHS[2] :][:PAGE] = kv[:PAGE]
    k_pages, v_pages = (torch.zeros(NUM_PAGES, J, *page_shape(which, d)) for which in "kv")
    append_kv(k, v, places, k_pages, v_pages)
    found = paged_attention(q, places, k_pages, v_pages, window)
    for i in range(3):
        own = places.sequences == i
        assert relative_error(found[own], exact_attention(q[own], k[own], v[own], window)) < 1e-6

    def attention_of(tokens):
        chosen = TokenPlaces(places.positions[tokens], places.sequences[tokens], places.table)
        return paged_attention(q[tokens], chosen, k_pages, v_pages, window)

    last = places.positions >= torch.tensor(LENGTHS)[places.sequences.long()] - 3
    assert torch.equal(attention_of(last), found[last])
    for t in (0, 140, len(q) - 1):
        assert torch.equal(attention_of(slice(t, t + 1)), found[t : t + 1])
