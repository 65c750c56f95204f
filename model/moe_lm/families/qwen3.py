"""Qwen3, dense: Llama with norms of queries and keys, and heads whose size does not follow from hidden_size."""

from moe_lm.families.base import OFF, SILU, Family
from moe_lm.families.sliding_window import QWEN_DEFAULTS, UPPER_LAYERS

QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    gguf_architecture="qwen3",
    qk_norm="head",
    sliding_window=UPPER_LAYERS,
    defaults={"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768, **QWEN_DEFAULTS},
    options={"hidden_act": SILU, "attention_bias": OFF},
)
