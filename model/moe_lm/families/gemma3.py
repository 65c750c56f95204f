"""Gemma 3, its text model: Gemma with norms of queries and keys, two more norms a layer, and a sliding window in five layers of six.

The layers with a window have a rotary embedding of their own, which no scaling changes.
"""

from typing import Any

from moe_lm import kinds
from moe_lm.families.base import OFF, Family
from moe_lm.families.names import HF_NAMES
from moe_lm.families.sliding_window import SlidingWindow

_HF_NORMS = {
    "attention_post_norm": "model.layers.{layer}.post_attention_layernorm",
    "ffn_norm": "model.layers.{layer}.pre_feedforward_layernorm",
    "ffn_post_norm": "model.layers.{layer}.post_feedforward_layernorm",
}


def _all_but_each_sixth(layer: int, values: Any) -> bool:
    return bool((layer + 1) % values["sliding_window_pattern"])


GEMMA3 = Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    gguf_architecture="gemma3",
    qk_norm="head",
    activation="gelu_tanh",
    norm_offset=1.0,
    post_norms=True,
    scale_embeddings=True,
    sliding_window=SlidingWindow(_all_but_each_sixth, required=True),
    defaults={
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    },
    kinds={"query_pre_attn_scalar": kinds.COUNT, "sliding_window_pattern": kinds.COUNT, "rope_local_base_freq": kinds.ROPE_BASE},
    options={
        "hidden_activation": ("gelu_pytorch_tanh",),
        "attention_bias": OFF,
        "attn_logit_softcapping": (None,),
        "final_logit_softcapping": (None,),
        "use_bidirectional_attention": OFF,
    },
    without_effect=frozenset({"_sliding_window_pattern", "cache_implementation"}),
    hf_names={**HF_NAMES, **_HF_NORMS},
)
