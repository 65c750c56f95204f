"""A whole model on the `triton` tenant gives the reference's logits."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton (pip install 'evalkit[gpu]')")

from tiny_models import blank_caches, tiny_config, tiny_decoder, tokens

from moe_lm.engine.batch import forward


@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek"])
def test_a_decoder_on_triton_equals_the_reference(device, family):
    """Gated and ungated shared expert, a dense first layer."""
    model = tiny_decoder(tiny_config(family)).to(device)
    found, prompts = {}, (tokens(5, 1), tokens(2, 2))
    for kernel in ("reference", "triton"):
        model.use(kernel)
        hidden = forward(model, list(zip(prompts, blank_caches(model, *prompts), strict=True)), range(7))
        with torch.inference_mode():
            found[kernel] = model.logits(hidden)
    assert all((layer.ffn.whole is not None) == hasattr(layer.ffn, "experts") for layer in model.layers if hasattr(layer.ffn, "whole"))
    assert torch.allclose(found["triton"], found["reference"], atol=1e-4)
    model.use("torch" if device.type == "cpu" else "reference")  # the packed weights serve the others too
    hidden = forward(model, list(zip(prompts, blank_caches(model, *prompts), strict=True)), range(7))
    with torch.inference_mode():
        assert torch.allclose(model.logits(hidden), found["reference"], atol=1e-4)
