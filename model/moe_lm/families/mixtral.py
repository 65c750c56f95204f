"""Mixtral: Mistral with experts, which have tensor names of their own. A GGUF file of architecture llama with experts is one."""

from moe_lm.families.base import SILU, Family, MoEKeys
from moe_lm.families.names import HF_NAMES
from moe_lm.families.sliding_window import SlidingWindow

MIXTRAL = Family(
    "mixtral",
    "MixtralForCausalLM",
    gguf_architecture="llama",
    gguf_interleaved_rope=True,
    sliding_window=SlidingWindow(layer_types=False),
    # the router's softmax over the chosen logits alone is the softmax over all of them, normalised: hence no norm_topk_prob
    moe=MoEKeys(num_experts="num_local_experts", moe_intermediate_size="intermediate_size", norm_topk_prob=None),
    defaults={
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-5,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    aliases={"num_experts": "num_local_experts"},
    options={"hidden_act": SILU},
    without_effect=frozenset({"router_jitter_noise"}),
    hf_names={
        **HF_NAMES,
        "ffn.router": "model.layers.{layer}.block_sparse_moe.gate",
        "ffn.experts.gate_proj": "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1",
        "ffn.experts.up_proj": "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3",
        "ffn.experts.down_proj": "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2",
    },
)
