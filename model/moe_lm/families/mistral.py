"""Mistral 7B, Ministral 8B: Llama with a sliding window, in all layers or some. A GGUF file of architecture llama with a window is one."""

from moe_lm.families.base import SILU, Family
from moe_lm.families.sliding_window import SlidingWindow

MISTRAL = Family(
    "mistral",
    "MistralForCausalLM",
    gguf_architecture="llama",
    gguf_interleaved_rope=True,
    sliding_window=SlidingWindow(),
    defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    options={"hidden_act": SILU},
)
