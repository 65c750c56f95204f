"""Qwen3-MoE: Qwen3 with routed experts and no shared one."""

from moe_lm.families.base import OFF, SILU, Family, MoEKeys
from moe_lm.families.sliding_window import QWEN_DEFAULTS, SlidingWindow

QWEN3_MOE = Family(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    gguf_architecture="qwen3moe",
    qk_norm="head",
    sliding_window=SlidingWindow(layer_types=False, switch="use_sliding_window"),
    moe=MoEKeys(dense_layers="mlp_only_layers", sparse_step="decoder_sparse_step", gguf_norm_topk_prob=True),
    defaults={
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
        "mlp_only_layers": None,
        "decoder_sparse_step": 1,
        **QWEN_DEFAULTS,
    },
    aliases={"num_local_experts": "num_experts"},  # transformers 5 writes it
    options={"hidden_act": SILU, "attention_bias": OFF},
)
