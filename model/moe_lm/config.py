"""Model configuration: what a decoder of each supported family needs to know.

One table, `FAMILIES`, maps a Hugging Face `model_type` to what differs; the decoder itself is shared.
An unknown model_type, or an option that the decoder does not implement, is refused by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moe_lm.errors import ModelError


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """The sparse part of a layer: `num_experts` routed experts, of which a token visits `num_experts_per_tok`."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int
    norm_topk_prob: bool

    def __post_init__(self) -> None:
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ModelError(f"num_experts_per_tok is {self.num_experts_per_tok}; it must lie in 1..{self.num_experts} (num_experts)")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shapes and constants of one decoder; field names follow Hugging Face's config.json."""

    family: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    max_seq_len: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool
    qkv_bias: bool
    moe: MoEConfig | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ModelError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}"
            )


@dataclass(frozen=True, slots=True)
class Family:
    """What one model_type changes in the shared decoder."""

    qkv_bias: bool
    sparse: bool = False
    refuse: Mapping[str, Callable[[Any], bool]] | None = None  # option -> "is this value one we do not implement?"


def _set(value: Any) -> bool:
    return bool(value)


_EVERYWHERE: dict[str, Callable[[Any], bool]] = {
    "rope_scaling": lambda v: bool(v) and v.get("rope_type", v.get("type")) != "default",
    "quantization_config": _set,
    "mlp_bias": _set,
    "use_sliding_window": _set,
    "hidden_act": lambda v: v != "silu",
}

FAMILIES: dict[str, Family] = {
    "llama": Family(qkv_bias=False, refuse={"attention_bias": _set}),
    "qwen2": Family(qkv_bias=True),
    "qwen2_moe": Family(
        qkv_bias=True,
        sparse=True,
        refuse={"mlp_only_layers": _set, "decoder_sparse_step": lambda v: v != 1, "qkv_bias": lambda v: v is False},
    ),
}


def family_of(model_type: Any) -> Family:
    """The row of `FAMILIES`; raises ModelError with the known names for any other model_type."""
    if model_type not in FAMILIES:
        raise ModelError(f"model_type {model_type!r} is not supported; moe_lm runs: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Read a Hugging Face config.json. Raises ModelError for a missing key, an unknown family or an unsupported option."""
    family = family_of(raw.get("model_type"))
    raw = _rope_parameters(raw)
    for option, unsupported in {**_EVERYWHERE, **(family.refuse or {})}.items():
        if option in raw and unsupported(raw[option]):
            raise ModelError(f"config option {option} = {raw[option]!r} is not supported for model_type {raw['model_type']}")
    try:
        heads = raw["num_attention_heads"]
        moe = None
        if family.sparse:
            moe = MoEConfig(
                num_experts=raw["num_experts"],
                num_experts_per_tok=raw["num_experts_per_tok"],
                moe_intermediate_size=raw["moe_intermediate_size"],
                shared_expert_intermediate_size=raw["shared_expert_intermediate_size"],
                norm_topk_prob=raw.get("norm_topk_prob", False),
            )
        return ModelConfig(
            family=raw["model_type"],
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            num_hidden_layers=raw["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
            intermediate_size=raw["intermediate_size"],
            max_seq_len=raw["max_position_embeddings"],
            rope_theta=float(raw.get("rope_theta", 10000.0)),
            rms_norm_eps=float(raw["rms_norm_eps"]),
            tie_word_embeddings=raw.get("tie_word_embeddings", False),
            qkv_bias=family.qkv_bias,
            moe=moe,
            bos_token_id=raw.get("bos_token_id"),
            eos_token_ids=_ids(raw.get("eos_token_id")),
        )
    except KeyError as missing:
        raise ModelError(f"config.json of model_type {raw['model_type']} has no {missing.args[0]!r}") from None


def to_hf(config: ModelConfig, dtype: str = "float32") -> dict[str, Any]:
    """The config.json that makes transformers build the same model; `from_hf(to_hf(c)) == c`."""
    raw: dict[str, Any] = {
        "architectures": [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen2_moe": "Qwen2MoeForCausalLM"}[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_seq_len,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "hidden_act": "silu",
        "torch_dtype": dtype,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
    }
    if config.moe:
        raw |= {name: getattr(config.moe, name) for name in MoEConfig.__dataclass_fields__}
        raw |= {"decoder_sparse_step": 1, "mlp_only_layers": []}
    return raw


def _rope_parameters(raw: Mapping[str, Any]) -> dict[str, Any]:
    # transformers 5 writes rope_parameters = {rope_type, rope_theta, ..}; earlier versions rope_theta and rope_scaling
    flat = dict(raw)
    rope = flat.pop("rope_parameters", None)
    if rope:
        flat["rope_theta"] = rope.get("rope_theta", flat.get("rope_theta", 10000.0))
        if rope.get("rope_type", "default") != "default":
            flat["rope_scaling"] = rope
    return flat


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
