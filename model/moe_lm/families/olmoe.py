"""OLMoE: Llama with routed experts in every layer, and norms over all queries and all keys of a token."""

from moe_lm.families.base import OFF, SILU, Family, MoEKeys

OLMOE = Family(
    "olmoe",
    "OlmoeForCausalLM",
    gguf_architecture="olmoe",
    qk_norm="projection",
    moe=MoEKeys(moe_intermediate_size="intermediate_size"),
    defaults={
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
    },
    aliases={"num_local_experts": "num_experts"},
    options={"hidden_act": SILU, "attention_bias": OFF, "clip_qkv": (None,)},
)
