"""Tiny models that llama.cpp can run, as folders to be written in another format."""

import weakref
from dataclasses import replace

from tiny_models import tiny_config, tiny_decoder, tiny_moe

from moe_lm.checkpoint.random_weights import random_checkpoint
from moe_lm.checkpoint.read import open_checkpoint
from moe_lm.checkpoint.write import save
from moe_lm.config import MoEConfig
from moe_lm.families import FAMILIES

ROWS = 288  # of the embedding: a token each for 256 bytes
OPTIONS = {"mistral": {"sliding_window": 5}, "gemma3_text": {"query_pre_attn_scalar": 8}, "olmoe": {"num_key_value_heads": 4}}
NORMALISED = ("mixtral", "qwen3_moe")  # llama.cpp makes a token's experts sum to one in these alone


def moe_of(family, **changes):
    return replace(tiny_moe(FAMILIES[family].moe), **changes)


def config_of(family, **changes):
    """A model that llama.cpp can run."""
    options = {"vocab_size": ROWS, "tied": family.startswith("gemma"), **OPTIONS.get(family, {})} | changes
    if FAMILIES[family].moe:
        options = {"moe": moe_of(family, norm_topk_prob=family in NORMALISED)} | options
    return tiny_config(family, **options)


def checkpoint_of(config, folder):
    """A folder's, of random weights."""
    save(tiny_decoder(config), random_checkpoint(config).tokenizer, folder)
    return open_checkpoint(folder)


def one_at_a_time(source):
    """The checkpoint, which asserts that a parameter is gone before the next one is taken; and the parameters that were taken so far."""
    seen = []

    def stream():
        for parameter, value in source.stream():
            assert not [each for each, reference in seen if reference() is not None]
            seen.append((parameter, weakref.ref(value)))
            yield parameter, value
            del value

    return replace(source, stream=stream), seen


def _quantised(family, layers, width, **changes):
    sizes = {"hidden_size": width, "head_dim": width // 4, "num_hidden_layers": layers, "intermediate_size": 256}
    return config_of(family, **sizes | changes)


# those whose tensors' types are in golden/gguf_types.json: eight experts, a tied head with odd rows, finer first and last layers
QUANTISED = {
    "llama": _quantised("llama", 16, 256),
    "mixtral": _quantised("mixtral", 9, 256, moe=MoEConfig(8, 2, 256, 0, norm_topk_prob=True, shared_expert_gate=False)),
    "qwen2": _quantised("qwen2", 8, 288, tied=True, intermediate_size=416),
}
