"""Mistral 7B: Llama with a sliding window. llama.cpp calls its GGUF files llama's."""

from moe_lm.families.base import SILU, Family

MISTRAL = Family(
    "mistral",
    "MistralForCausalLM",
    sliding_window=True,
    defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    options={"hidden_act": SILU},
)
