"""A GPU's decode steps: the reference's hidden states, whatever is padded, shared or replayed; on a CPU interpreted, and without graphs."""

import gc
import weakref

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton (pip install 'evalkit-lm[gpu]')")

from tiny_models import admit, on, tiny_config, tiny_decoder, tokens

from moe_lm.backends.base import PAGE
from moe_lm.engine.batch import forward
from moe_lm.engine.generator import GenerateRequest, Generator
from moe_lm.engine.pages import PagePool
from moe_lm.rope import YarnScaling

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


def prefilled(backend, crowd):
    """A pool, and a cache with room for three more tokens for each prompt."""
    pool, caches = PagePool(backend, 40), []
    for prompt in prompts(crowd):
        cache = admit(pool, [*prompt, 0], len(prompt) + 3)
        forward(backend, [(prompt[cache.length :], cache)], ())
        cache.remember(prompt)
        caches.append(cache)
    return pool, caches


def step(backend, caches, token):
    return forward(backend, [([token], cache) for cache in caches], range(len(caches)))


OPTIONS = {
    "mistral": {"sliding_window": 150, "full_attention_layers": (1,)},
    "gemma3_text": {"rope_scaling": YarnScaling(4.0, 64, 1.25)},
}


@pytest.mark.parametrize(("family", "crowd"), [("mistral", crowd) for crowd in CROWDS] + [("qwen2_moe", "three"), ("gemma3_text", "three")])
def test_equals_the_reference(device, family, crowd):
    model = tiny_decoder(tiny_config(family, **OPTIONS.get(family, {}))).to(device)
    reference, triton = on("reference", model), on("triton", model)
    _, expected = prefilled(reference, crowd)
    pool, caches = prefilled(triton, crowd)
    for token in (7, 8):
        assert torch.allclose(step(triton, caches, token), step(reference, expected, token), atol=2e-5)
    assert [cache.length for cache in caches] == [len(prompt) + 2 for prompt in prompts(crowd)]
    steps = triton.steps[pool.memory]
    assert steps.recording == (device.type == "cuda")
    assert {shared for _, _, shared in steps.steps} == ({2 * PAGE} if crowd == "a shared prefix" else {0})


def test_a_memory_of_pages_is_freed_with_its_pool(device):
    triton = on("triton", tiny_decoder(tiny_config(num_hidden_layers=1)).to(device))
    pool, caches = prefilled(triton, "one")
    step(triton, caches, 7)
    memory = weakref.ref(pool.memory)
    assert memory() in triton.steps
    del pool, caches
    gc.collect()
    assert memory() is None
    assert not triton.steps


def test_padding_touches_no_page_but_the_spare_one(device):
    triton = on("triton", tiny_decoder(tiny_config()).to(device))
    pool, caches = prefilled(triton, "three")
    before = [pages.nan_to_num_().clone() for pages in pool.memory.all]
    others = [p for p in range(pool.num_pages) if p not in {cache.pages[0] for cache in caches}]
    step(triton, caches, 1)
    for pages, old in zip(pool.memory.all, before, strict=True):
        assert torch.equal(pages[:, others], old[:, others])
        for cache in caches:
            page, at = cache.pages[0], cache.length - 1
            assert torch.equal(pages[:, page, :, :at], old[:, page, :, :at])
            assert not torch.equal(pages[:, page, :, at], old[:, page, :, at])


def test_a_generator_whose_sequences_end_and_cross_pages(device):
    model = tiny_decoder(tiny_config()).to(device)
    requests = [GenerateRequest(tokens(PAGE - 2 + i, seed=i), max_new_tokens=2 + 2 * i, ignore_eos=True) for i in range(3)]
    found = []
    for kernel in ("reference", "triton"):
        backend = on(kernel, model)
        generator = Generator(backend, decode=str, stop_ids=frozenset(), pool=PagePool(backend, 16))
        found.append({i: generation.tokens for i, generation in generator.generate(requests)})
    assert found[0] == found[1]
    assert {(B, M) for B, M, _ in backend.steps[generator.pool.memory].steps} >= {(4, 2), (1, 2)}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_give_the_bits_of_launches(gpu, dtype):
    """Sequences that end and cross pages, sizes that come back."""
    torch.use_deterministic_algorithms(False)  # which would take another kernel to put keys on pages
    model = tiny_decoder(tiny_config("qwen2_moe", head_dim=64)).to(gpu, dtype)
    requests = [GenerateRequest(SHARED + tokens(3 + i, seed=i), max_new_tokens=5 + 60 * (i % 3), ignore_eos=True) for i in range(20)]
    found = []
    for recording in (True, False):
        backend = on("triton", model)
        generator = Generator(backend, decode=str, stop_ids=frozenset(), pool=PagePool(backend, 128))
        steps = backend.decode_steps(generator.pool.memory)
        steps.recording = recording
        found += [{i: generation.tokens for i, generation in generator.generate(requests)} for _ in range(2)]
        assert (len([1 for step in steps.steps.values() if step.graph]) > 0) == recording
    assert all(again == found[0] for again in found)
