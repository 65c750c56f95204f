"""Qwen1.5-MoE and Qwen2-MoE: Qwen2 with routed experts and a shared expert behind a sigmoid gate, in every layer."""

from moe_lm.families.base import OFF, SILU, Family, MoEKeys

QWEN2_MOE = Family(
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    gguf_architecture="qwen2moe",
    qkv_bias=True,
    moe=MoEKeys(shared_expert_intermediate_size="shared_expert_intermediate_size", shared_expert_gate=True),
    defaults={
        "num_key_value_heads": 16,
        "max_position_embeddings": 32768,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "norm_topk_prob": False,
    },
    options={
        "hidden_act": SILU,
        "decoder_sparse_step": (1,),
        "mlp_only_layers": ([], None),
        "qkv_bias": (None, True),
        "use_sliding_window": OFF,
    },
)
