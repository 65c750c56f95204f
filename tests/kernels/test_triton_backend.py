"""A whole model on the `triton` back-end gives the reference's logits."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton (pip install 'evalkit-lm[gpu]')")

from tiny_models import logits, on, tiny_config, tiny_decoder, tokens

from moe_lm.backends.cuda.experts_triton import TritonMoE


@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek", "qwen3_moe", "olmoe"])
def test_a_decoder_on_triton_equals_the_reference(device, family):
    """Gated and ungated shared expert and none, a dense first layer, norms of queries and keys of both kinds."""
    model = tiny_decoder(tiny_config(family)).to(device)
    prompts = (tokens(5, 1), tokens(2, 2))
    triton = on("triton", model)
    sparse = [isinstance(layer.ffn, TritonMoE) for layer in triton.model.layers]
    assert sparse == [model.config.is_sparse(i) for i in range(len(sparse))]
    for found, expected in zip(logits(triton, *prompts), logits(on("reference", model), *prompts), strict=True):
        assert torch.allclose(found, expected, atol=1e-4)
