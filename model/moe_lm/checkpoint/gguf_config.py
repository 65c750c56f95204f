"""A GGUF file's metadata in the words of Hugging Face's config.json, which `moe_lm.config.from_hf` reads."""

from collections.abc import Mapping
from typing import Any

from moe_lm.errors import ModelError
from moe_lm.families import family_of_gguf
from moe_lm.families.base import MoEKeys

# metadata key (after the architecture) -> config.json's key, in every file
_REQUIRED = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "context_length": "max_position_embeddings",
}
# and what a file may leave out, with llama.cpp's default, which need not be the family's in transformers
_OPTIONAL: dict[str, tuple[str, Any]] = {
    "attention.head_count_kv": ("num_key_value_heads", None),
    "attention.key_length": ("head_dim", None),
    "rope.freq_base": ("rope_theta", 10000.0),
}


def hf_config(metadata: Mapping[str, Any], tied: bool) -> dict[str, Any]:
    """The file's config.json. Raises ModelError for an unknown architecture, a missing key or an unsupported option."""
    arch = metadata.get("general.architecture")
    family = family_of_gguf(arch, metadata.get(f"{arch}.expert_count", 0))
    required, optional = _REQUIRED, _OPTIONAL
    if family.moe:
        required, optional = required | _moe_required(family.moe), optional | _moe_optional(family.moe)
    if (scale := metadata.get(f"{arch}.expert_weights_scale", 1.0)) not in (0.0, 1.0):  # 0: not set
        raise ModelError(f"GGUF option {arch}.expert_weights_scale = {scale} is not supported, only 1.0")
    for key in required:
        if f"{arch}.{key}" not in metadata:
            raise ModelError(f"the GGUF file has no {arch}.{key}; convert the model again with a current llama.cpp")
    return {
        "model_type": family.model_type,
        "tie_word_embeddings": tied,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "vocab_size": len(metadata.get("tokenizer.ggml.tokens", ())),
        **{ours: metadata[f"{arch}.{theirs}"] for theirs, ours in required.items()},
        **{ours: metadata.get(f"{arch}.{theirs}", default) for theirs, (ours, default) in optional.items()},
    }


def _moe_required(keys: MoEKeys) -> dict[str, str]:
    found = {"expert_count": keys.num_experts, "expert_used_count": keys.num_experts_per_tok}
    if keys.moe_intermediate_size not in _REQUIRED.values():
        found["expert_feed_forward_length"] = keys.moe_intermediate_size
    if keys.shared_expert_intermediate_size:
        found["expert_shared_feed_forward_length"] = keys.shared_expert_intermediate_size
    return found


def _moe_optional(keys: MoEKeys) -> dict[str, tuple[str, Any]]:
    found = {
        "expert_weights_norm": (keys.norm_topk_prob, keys.gguf_norm_topk_prob),
        "expert_shared_count": (keys.num_shared_experts, 0),
        "leading_dense_block_count": (keys.first_dense_layers, 0),
    }
    return {theirs: (ours, default) for theirs, (ours, default) in found.items() if ours}
