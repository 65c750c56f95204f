"""Qwen1.5, Qwen2 and Qwen2.5, dense: Llama with biases on queries, keys and values."""

from moe_lm.families.base import SILU, Family
from moe_lm.families.sliding_window import QWEN_DEFAULTS, UPPER_LAYERS

QWEN2 = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    gguf_architecture="qwen2",
    qkv_bias=True,
    sliding_window=UPPER_LAYERS,
    defaults={"num_key_value_heads": 32, "max_position_embeddings": 32768, **QWEN_DEFAULTS},
    options={"hidden_act": SILU},
)
