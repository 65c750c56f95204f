"""A configuration in the words of GGUF, which `gguf_config` and `gguf_rope` read: the keys that llama.cpp's converter writes.

What is written is read back before it counts: a configuration that the keys can't say, or that llama.cpp would compute otherwise, is
refused by name.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from moe_lm import rope
from moe_lm.checkpoint import gguf_rope
from moe_lm.checkpoint.gguf_config import Shapes, hf_config
from moe_lm.config import ModelConfig, from_hf
from moe_lm.errors import ModelError, Unsupported
from moe_lm.families import FAMILIES, family_of
from moe_lm.files import shown

Keys = dict[str, Any]  # metadata: whole numbers, floats, truth values, texts, and lists of one of these


@dataclass(frozen=True, slots=True)
class _Runtime:
    """What llama.cpp takes for granted of an architecture (src/models/NAME.cpp)."""

    attention_is_square: bool = False  # are all query heads together as wide as the hidden state?
    needs_output: bool = False  # must the file have an output matrix, even if it is the embedding?
    is_tied: bool = False  # is the output always the embedding?
    normalises_experts: bool = False  # do the weights of a token's experts sum to one?


_RUNTIMES: Mapping[str, _Runtime] = {
    "llama": _Runtime(normalises_experts=True),
    "qwen2": _Runtime(attention_is_square=True),
    "qwen2moe": _Runtime(attention_is_square=True, needs_output=True),
    "qwen3": _Runtime(),
    "qwen3moe": _Runtime(normalises_experts=True),
    "olmoe": _Runtime(attention_is_square=True, needs_output=True),
    "gemma": _Runtime(is_tied=True),
    "gemma3": _Runtime(),
    "deepseek": _Runtime(attention_is_square=True),
}


def architecture_of(config: ModelConfig) -> str:
    """llama.cpp's name for the family. Raises Unsupported where it has none."""
    name = family_of(config.family).gguf_architecture
    if name is None or name not in _RUNTIMES:
        known = ", ".join(family for family, row in FAMILIES.items() if row.gguf_architecture in _RUNTIMES)
        raise Unsupported(f"model_type {config.family} can't be written as GGUF; it can of: {known}")
    return name


def copies_head(config: ModelConfig) -> bool:
    """Must the embedding stand in the file a second time, as output.weight?"""
    return config.tie_word_embeddings and _RUNTIMES[architecture_of(config)].needs_output


def keys_of(config: ModelConfig) -> tuple[Keys, dict[str, np.ndarray]]:
    """The keys, and the factors of frequencies that go with them as tensors. Raises Unsupported for what `architecture_of` refuses."""
    arch = architecture_of(config)
    keys: Keys = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_seq_len,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
    }
    if config.sliding_window is not None:
        keys["attention.sliding_window"] = config.sliding_window
    if config.rope_local_base_freq is not None:
        keys |= {"rope.freq_base_swa": config.rope_local_base_freq, "attention.sliding_window_pattern": _pattern(config)}
    scaling, factors = _rope_scaling(config)
    keys |= scaling | _experts(config, arch)
    return {"general.architecture": arch, "general.type": "model", **{f"{arch}.{key}": value for key, value in keys.items()}}, factors


def check(config: ModelConfig, keys: Keys, factors: Mapping[str, np.ndarray], shapes: Shapes) -> None:
    """Raises Unsupported where a reader of these keys and tensors would not compute what `config` says, naming the difference."""
    arch, what = keys["general.architecture"], f"model_type {config.family} can't be written as GGUF"
    runtime, width = _RUNTIMES[arch], config.num_attention_heads * config.head_dim
    if runtime.attention_is_square and width != config.hidden_size:
        raise Unsupported(f"{what} with heads of {width} together and a hidden_size of {config.hidden_size}: llama.cpp wants them equal")
    if runtime.is_tied and not config.tie_word_embeddings:
        raise Unsupported(f"{what} with an output matrix of its own: llama.cpp takes the embedding for it")
    if config.moe and config.moe.norm_topk_prob != runtime.normalises_experts:
        raise Unsupported(
            f"{what} with norm_topk_prob {str(config.moe.norm_topk_prob).lower()}: llama.cpp computes architecture {arch} with "
            f"{str(runtime.normalises_experts).lower()}, and no key says otherwise"
        )
    if config.qk_norm == "projection" and config.num_key_value_heads != config.num_attention_heads:
        raise Unsupported(f"{what} with fewer key/value heads than query heads: llama.cpp wants as many")
    try:
        read = from_hf(hf_config({key: _as_stored(value) for key, value in keys.items()}, shapes))
        read = gguf_rope.with_rope_scaling(read, keys, {name: values.tolist() for name, values in factors.items()})
    except ModelError as error:
        raise Unsupported(f"{what}: {error}") from None
    if difference := _difference(config, replace(read, tie_word_embeddings=config.tie_word_embeddings)):
        raise Unsupported(f"{what}: {difference}")


def _pattern(config: ModelConfig) -> int:
    """Every how manyth layer has no window; one more than there are layers where all have one."""
    return min(config.full_attention_layers, default=config.num_hidden_layers) + 1


def _experts(config: ModelConfig, arch: str) -> Keys:
    moe = config.moe
    if moe is None:
        return {}
    keys: Keys = {"expert_count": moe.num_experts, "expert_used_count": moe.num_experts_per_tok}
    names = family_of(config.family).moe
    assert names
    if names.moe_intermediate_size != "intermediate_size":
        keys["expert_feed_forward_length"] = moe.moe_intermediate_size
    if names.norm_topk_prob and arch != "qwen3moe":
        keys["expert_weights_norm"] = moe.norm_topk_prob
    if names.shared_expert_intermediate_size:
        keys["expert_shared_feed_forward_length"] = moe.shared_expert_intermediate_size
    if names.num_shared_experts:
        keys["expert_shared_count"] = moe.shared_expert_intermediate_size // moe.moe_intermediate_size
        keys["expert_weights_scale"] = 1.0
    if names.first_dense_layers:
        keys["leading_dense_block_count"] = len(moe.dense_layers)
    return keys


def _rope_scaling(config: ModelConfig) -> tuple[Keys, dict[str, np.ndarray]]:
    """Keys and tensors of a scaling. DynamicScaling has none: as far as moe_lm's sequences go, it changes nothing."""
    scaling = config.rope_scaling
    match scaling:
        case rope.LinearScaling():
            return {"rope.scaling.type": "linear", "rope.scaling.factor": scaling.factor}, {}
        case rope.YarnScaling():
            return {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": scaling.factor,
                "rope.scaling.original_context_length": scaling.original_max_position_embeddings,
                "rope.scaling.yarn_beta_fast": scaling.beta_fast,
                "rope.scaling.yarn_beta_slow": scaling.beta_slow,
            }, {}
        case rope.LongRopeScaling() if scaling.short_factor != scaling.long_factor or scaling.attention_factor != 1:
            return {
                "rope.scaling.type": "longrope",
                "rope.scaling.original_context_length": scaling.original_max_position_embeddings,
                "rope.scaling.attn_factor": scaling.attention_factor,
                "context_length": scaling.max_position_embeddings,
            }, {
                gguf_rope.SHORT: np.array(scaling.short_factor, np.float32),
                gguf_rope.LONG: np.array(scaling.long_factor, np.float32),
            }
        case rope.Llama3Scaling() | rope.LongRopeScaling():
            plain = np.array(rope.frequencies(config.rope_theta, config.head_dim))
            return {}, {gguf_rope.FREQS: (plain / np.array(scaling.frequencies(config.rope_theta, config.head_dim))).astype(np.float32)}
    return {}, {}


def _as_stored(value: Any) -> Any:
    return float(np.float32(value)) if isinstance(value, float) else value


def _difference(config: ModelConfig, read: ModelConfig) -> str | None:
    """What the two configurations compute otherwise, in words; float32's rounding and the family's name aside."""
    ours, theirs = asdict(config), asdict(read)
    for key in ("family", "rope_scaling", "rope_theta", "rope_local_base_freq", "bos_token_id", "eos_token_ids"):
        del ours[key], theirs[key]
    if (config.query_pre_attn_scalar or config.head_dim) == (read.query_pre_attn_scalar or read.head_dim):
        del ours["query_pre_attn_scalar"], theirs["query_pre_attn_scalar"]
    for key, value in ours.items():
        other = theirs[key]
        if value != other and not (isinstance(value, float) and math.isclose(value, other, rel_tol=1e-6)):
            return f"no key says {key} = {shown(value)}; it would be read as {shown(other)}"
    for layer in range(config.num_hidden_layers):
        (frequencies, factor), (others, other_factor) = (_rotation(each, layer) for each in (config, read))
        if not np.allclose(frequencies, others, rtol=1e-6, atol=0) or not math.isclose(factor, other_factor, rel_tol=1e-6):
            name = config.rope_scaling.rope_type if config.rope_scaling else "default"
            return f"no key says how its rotary embedding is scaled (rope_type {name})"
    return None


def _rotation(config: ModelConfig, layer: int) -> tuple[list[float], float]:
    theta, scaling = config.rotary(layer)
    return rope.frequencies(theta, config.head_dim, scaling), scaling.attention_factor if scaling else 1.0
