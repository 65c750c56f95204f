"""A layer as two calls has the very bits of its kernels called one by one: for every family, and for weights however stored."""

from dataclasses import replace

import pytest
import torch
from cpu_cases import needs_kernels
from tiny_models import blank_caches, tiny_config, tiny_decoder, tokens

from moe_lm.backends.cpu.backend import CpuBackend
from moe_lm.checkpoint.random_weights import in_random_blocks, random_checkpoint
from moe_lm.engine.batch import forward
from moe_lm.families import FAMILIES

pytestmark = needs_kernels


def one_by_one(backend):
    return [replace(layer, fused=None) for layer in backend.layers]


def logits_of(backend, layers):
    """Of a prompt of 600 tokens (more than an FFN takes at once) and a short one, then of a decode step of both."""
    backend.layers = layers
    prompts = [tokens(600, 1), tokens(5, 2)]
    caches = blank_caches(backend, *[[*prompt, 0] for prompt in prompts])
    found = []
    for new in (prompts, [[3], [4]]):
        pairs = list(zip(new, caches, strict=True))
        wanted = range(sum(map(len, new)))
        found.append(backend.logits(forward(backend, pairs, wanted)))
    return torch.cat(found)


def require_the_same_bits(model, int8=False):
    backend = CpuBackend(model, int8)
    fused = backend.layers
    assert all(layer.fused for layer in fused)
    together, apart = logits_of(backend, fused), logits_of(backend, one_by_one(backend))
    assert together.isfinite().all()
    assert torch.equal(together, apart)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family):
    require_the_same_bits(tiny_decoder(tiny_config(family, max_seq_len=1024)))


@pytest.mark.parametrize("int8", [False, True], ids=["exact", "int8"])
@pytest.mark.parametrize("kind", ["Q5_0", "Q4_K", "GROUP_128"])
def test_quantised_weights(kind, int8):
    sizes = {"vocab_size": 320, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "max_seq_len": 1024}
    checkpoint = in_random_blocks(random_checkpoint(tiny_config("gemma3_text", **sizes)), kind)
    require_the_same_bits(checkpoint.read(torch.float32, "cpu", None, quantized=True), int8)


def test_in_bfloat16_the_kernels_are_called_one_by_one():
    backend = CpuBackend(tiny_decoder(tiny_config("llama")).bfloat16())
    assert not any(layer.fused for layer in backend.layers)
