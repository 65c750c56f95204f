"""Qwen1.5-MoE and Qwen2-MoE: Qwen2 with routed experts and a shared expert behind a sigmoid gate."""

from moe_lm.families.base import SILU, Family, MoEKeys
from moe_lm.families.sliding_window import QWEN_DEFAULTS, SlidingWindow

QWEN2_MOE = Family(
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    gguf_architecture="qwen2moe",
    qkv_bias=True,
    # transformers 5: the even layers below max_window_layers
    sliding_window=SlidingWindow(
        lambda layer, values: layer % 2 == 0 and layer < values["max_window_layers"], switch="use_sliding_window", required=True
    ),
    moe=MoEKeys(
        shared_expert_intermediate_size="shared_expert_intermediate_size",
        shared_expert_gate=True,
        dense_layers="mlp_only_layers",
        sparse_step="decoder_sparse_step",
    ),
    defaults={
        "num_key_value_heads": 16,
        "max_position_embeddings": 32768,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "norm_topk_prob": False,
        "mlp_only_layers": None,
        "decoder_sparse_step": 1,
        **QWEN_DEFAULTS,
    },
    options={"hidden_act": SILU, "qkv_bias": (None, True)},
)
