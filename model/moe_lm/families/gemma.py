"""Gemma 1: GeGLU, norms that multiply by one plus their weight, embeddings scaled by the square root of hidden_size."""

from moe_lm.families.base import OFF, Family

GEMMA = Family(
    "gemma",
    "GemmaForCausalLM",
    gguf_architecture="gemma",
    activation="gelu_tanh",
    norm_offset=1.0,
    scale_embeddings=True,
    defaults={"num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": True},
    options={
        # the first releases say "gelu" and mean its tanh form
        "hidden_act": ("gelu_pytorch_tanh", "gelu", None),
        "hidden_activation": (None, "gelu_pytorch_tanh", "gelu"),
        "attention_bias": OFF,
        "use_bidirectional_attention": OFF,
    },
)
