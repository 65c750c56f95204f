"""Llama 1 to 3.3, and what is built like them."""

from moe_lm.families.base import OFF, SILU, Family

LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    gguf_architecture="llama",
    gguf_interleaved_rope=True,
    defaults={"max_position_embeddings": 2048},
    options={"hidden_act": SILU, "attention_bias": OFF, "mlp_bias": OFF},
    without_effect=frozenset({"is_llama_config", "rope_interleaved"}),
)
