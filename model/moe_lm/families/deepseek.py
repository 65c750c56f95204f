"""DeepSeekMoE 16B: Llama with fine-grained experts and shared ones without a gate, after leading dense layers.

transformers has no class of it; the defaults are those of configuration_deepseek.py in deepseek-ai/deepseek-moe-16b-base.
"""

from moe_lm.families.base import OFF, SILU, Family, MoEKeys
from moe_lm.families.names import HF_NAMES

DEEPSEEK = Family(
    "deepseek",
    "DeepseekForCausalLM",
    gguf_architecture="deepseek",
    gguf_interleaved_rope=True,
    moe=MoEKeys(num_experts="n_routed_experts", num_shared_experts="n_shared_experts", first_dense_layers="first_k_dense_replace"),
    defaults={
        "num_key_value_heads": 32,
        "max_position_embeddings": 2048,
        "n_shared_experts": None,
        "first_k_dense_replace": 0,
        "norm_topk_prob": False,
    },
    options={
        "hidden_act": SILU,
        "attention_bias": OFF,
        "moe_layer_freq": (1,),
        "scoring_func": ("softmax",),
        "routed_scaling_factor": (None, 1.0),
    },
    without_effect=frozenset({"aux_loss_alpha", "ep_size", "seq_aux"}),
    hf_names={module: name.replace("mlp.shared_expert.", "mlp.shared_experts.") for module, name in HF_NAMES.items()},
)
