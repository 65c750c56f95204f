"""A GPU's decode step: the CPU's hidden states, whatever is padded, shared or replayed; on a CPU interpreted, and without graphs."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton (pip install 'evalkit[gpu]')")

from tiny_models import admit, tiny_config, tiny_decoder, tokens

from moe_lm.backends.cuda.decode import GpuDecode
from moe_lm.backends.page_attention import decode_step
from moe_lm.engine.batch import forward
from moe_lm.engine.generator import GenerateRequest, Generator
from moe_lm.engine.pages import PAGE, PagePool, page_bytes

SHARED = tokens(2 * PAGE, seed=0)  # one split of the kernel's
CROWDS = {
    "one": [5],
    "three": [5, 6, 70],
    "unequal, nothing shared": [3, PAGE - 1, PAGE],
    "a shared prefix": [[*SHARED, 1], [*SHARED, 2, 3], SHARED + tokens(PAGE, seed=4)],
    "more than one padded size": [4] * 17,
}


def prompts(crowd):
    return [tokens(p, seed=10 + i) if isinstance(p, int) else p for i, p in enumerate(CROWDS[crowd])]


def prefilled(model, crowd):
    """A pool, and a cache of room for three tokens more for each prompt."""
    pool, caches = PagePool(model, 40), []
    for prompt in prompts(crowd):
        cache = admit(pool, [*prompt, 0], len(prompt) + 3)
        forward(model, [(prompt[cache.length :], cache)], ())
        cache.remember(prompt)
        caches.append(cache)
    return pool, caches


@pytest.mark.parametrize("crowd", CROWDS)
@pytest.mark.parametrize("family", ["qwen2_moe", "mistral"])
def test_equals_the_cpus_decode_step(device, family, crowd):
    model = tiny_decoder(tiny_config(family, **{"sliding_window": 150} if family == "mistral" else {}))
    pool, caches = prefilled(model, crowd)
    expected = [decode_step(model, [(token, cache) for cache in caches]) for token in (7, 8)]
    model = model.to(device)
    if family == "qwen2_moe":
        model.use("triton")
    pool, caches = prefilled(model, crowd)
    step = GpuDecode(model, pool)
    assert step.recording == (device.type == "cuda")
    for token, hidden in zip((7, 8), expected, strict=True):
        assert torch.allclose(step([(token, cache) for cache in caches]).cpu(), hidden, atol=2e-5)
    assert [cache.length for cache in caches] == [len(prompt) + 2 for prompt in prompts(crowd)]
    shared = {shared for _, _, shared in step.steps}
    assert shared == ({2 * PAGE} if crowd == "a shared prefix" else {0})


def test_padding_touches_no_page_but_the_spare_one(device):
    model = tiny_decoder(tiny_config()).to(device)
    pool, caches = prefilled(model, "three")
    before = [pages.nan_to_num_().clone() for pages in pool.all]
    others = [p for p in range(pool.num_pages) if p not in {cache.pages[0] for cache in caches}]
    GpuDecode(model, pool)([(1, cache) for cache in caches])
    for pages, old in zip(pool.all, before, strict=True):
        assert torch.equal(pages[:, others], old[:, others])
        for cache in caches:
            page, at = cache.pages[0], cache.length - 1
            assert torch.equal(pages[:, page, :, :at], old[:, page, :, :at])
            assert not torch.equal(pages[:, page, :, at], old[:, page, :, at])


def test_a_generator_whose_sequences_end_and_cross_pages(device):
    model = tiny_decoder(tiny_config()).to(device)
    requests = [GenerateRequest(tokens(PAGE - 2 + i, seed=i), max_new_tokens=2 + 2 * i, ignore_eos=True) for i in range(3)]
    found = []
    for on_gpu in (False, True):
        generator = Generator(model, decode=str, stop_ids=frozenset(), cache_bytes=16 * page_bytes(model))
        generator.step = GpuDecode(model, generator.pool) if on_gpu else generator.step
        found.append({i: generation.tokens for i, generation in generator.generate(requests)})
    assert found[0] == found[1]
    assert {(B, M) for B, M, _ in generator.step.steps} >= {(4, 2), (1, 2)}


@pytest.mark.gpu
def test_a_tenant_that_asks_the_host_is_not_recorded(gpu):
    model = tiny_decoder(tiny_config("qwen2_moe")).to(gpu)
    model.use("reference")
    assert not GpuDecode(model, PagePool(model, 1)).recording


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_give_the_bits_of_launches(gpu, dtype):
    """Sequences that end and cross pages, sizes that come back."""
    torch.use_deterministic_algorithms(False)  # which would take another kernel to put keys on pages
    model = tiny_decoder(tiny_config("qwen2_moe", head_dim=64)).to(gpu, dtype)
    model.use("triton")
    requests = [GenerateRequest(SHARED + tokens(3 + i, seed=i), max_new_tokens=5 + 60 * (i % 3), ignore_eos=True) for i in range(20)]
    found = []
    for recording in (True, False):
        generator = Generator(model, decode=str, stop_ids=frozenset(), cache_bytes=128 * page_bytes(model))
        generator.step.recording = recording
        found += [{i: generation.tokens for i, generation in generator.generate(requests)} for _ in range(2)]
        assert (len([1 for step in generator.step.steps.values() if step.graph]) > 0) == recording
    assert all(again == found[0] for again in found)
