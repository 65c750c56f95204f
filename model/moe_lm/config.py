"""Model configuration: what a decoder of each supported family needs to know.

One table, `FAMILIES`, maps a Hugging Face `model_type` to what differs; the decoder itself is shared.
An unknown model_type, or an option that the decoder does not implement, is refused by name.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_lm.errors import ModelError

Raw = Mapping[str, Any]  # a config.json


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """The sparse layers: `num_experts` routed experts, of which a token visits `num_experts_per_tok`, and what all tokens visit.

    The shared expert may be absent (size 0), and may stand behind a sigmoid gate; the first `first_dense_layers` layers are dense.
    """

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int
    norm_topk_prob: bool
    shared_expert_gate: bool = True
    first_dense_layers: int = 0

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
    qkv_bias: bool = False
    activation: str = "silu"  # of the FFN's gate: "silu" or "gelu_tanh"
    norm_offset: float = 0.0  # RMSNorm multiplies by norm_offset + weight
    scale_embeddings: bool = False  # by the square root of hidden_size
    sliding_window: int | None = None  # a token attends to itself and the sliding_window - 1 before it
    moe: MoEConfig | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ModelError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}"
            )

    def is_sparse(self, layer: int) -> bool:
        """Does this layer have experts?"""
        return self.moe is not None and layer >= self.moe.first_dense_layers


def _qwen2_moe(raw: Raw) -> MoEConfig:
    return MoEConfig(
        num_experts=raw["num_experts"],
        num_experts_per_tok=raw["num_experts_per_tok"],
        moe_intermediate_size=raw["moe_intermediate_size"],
        shared_expert_intermediate_size=raw["shared_expert_intermediate_size"],
        norm_topk_prob=raw.get("norm_topk_prob", False),
    )


def _deepseek(raw: Raw) -> MoEConfig:
    return MoEConfig(
        num_experts=raw["n_routed_experts"],
        num_experts_per_tok=raw["num_experts_per_tok"],
        moe_intermediate_size=raw["moe_intermediate_size"],
        shared_expert_intermediate_size=(raw.get("n_shared_experts") or 0) * raw["moe_intermediate_size"],
        norm_topk_prob=raw.get("norm_topk_prob", False),
        shared_expert_gate=False,
        first_dense_layers=raw.get("first_k_dense_replace", 0),
    )


def _mixtral(raw: Raw) -> MoEConfig:
    # softmax over the chosen logits alone is softmax over all of them, normalised
    return MoEConfig(
        num_experts=raw["num_local_experts"],
        num_experts_per_tok=raw["num_experts_per_tok"],
        moe_intermediate_size=raw["intermediate_size"],
        shared_expert_intermediate_size=0,
        norm_topk_prob=True,
        shared_expert_gate=False,
    )


def _set(value: Any) -> bool:
    return bool(value)


def _other_than(*allowed: Any) -> Callable[[Any], bool]:
    return lambda value: value not in allowed


@dataclass(frozen=True, slots=True)
class Family:
    """What one model_type changes in the shared decoder."""

    architecture: str  # Hugging Face's class
    qkv_bias: bool = False
    moe: Callable[[Raw], MoEConfig] | None = None
    activation: str = "silu"
    norm_offset: float = 0.0
    scale_embeddings: bool = False
    sliding_window: bool = False  # does the option of that name mean what it says?
    tie_word_embeddings: bool = False  # where config.json leaves it out
    refuse: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)  # option -> "is this value one we do not implement?"


# silu also where the key is missing; Gemma's first config.json says "gelu" and means the tanh form
_SILU, _GELU = _other_than("silu", None), _other_than("gelu", "gelu_pytorch_tanh", None)
_EVERYWHERE: dict[str, Callable[[Any], bool]] = {
    "rope_scaling": lambda v: bool(v) and v.get("rope_type", v.get("type")) != "default",
    "partial_rotary_factor": _other_than(1, None),
    "quantization_config": _set,
    "mlp_bias": _set,
    "use_sliding_window": _set,
}

# what from_hf reads, whatever the family
_READ = set(
    """model_type vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size
    max_position_embeddings rope_theta rms_norm_eps tie_word_embeddings sliding_window bos_token_id eos_token_id num_experts
    num_experts_per_tok moe_intermediate_size shared_expert_intermediate_size norm_topk_prob n_routed_experts n_shared_experts
    first_k_dense_replace num_local_experts""".split()
)
# what a config.json may say beside, without effect on inference; anything else that is set is refused
_WITHOUT_EFFECT = set(
    """_name_or_path architectures attention_dropout auto_map attn_implementation aux_loss_alpha chunk_size_feed_forward dtype
    experts_implementation hidden_dropout id2label initializer_range is_decoder is_llama_config label2id layer_types max_window_layers
    output_router_logits pad_token_id pretraining_tp return_dict rope_interleaved router_aux_loss_coef router_jitter_noise
    seq_aux torch_dtype transformers_version transformers.js_config use_cache ep_size""".split()
)

FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", refuse={"attention_bias": _set, "hidden_act": _SILU}),
    "mistral": Family("MistralForCausalLM", sliding_window=True, refuse={"hidden_act": _SILU}),
    "mixtral": Family("MixtralForCausalLM", moe=_mixtral, sliding_window=True, refuse={"hidden_act": _SILU}),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True, refuse={"hidden_act": _SILU}),
    "qwen2_moe": Family(
        "Qwen2MoeForCausalLM",
        qkv_bias=True,
        moe=_qwen2_moe,
        refuse={
            "hidden_act": _SILU,
            "mlp_only_layers": _set,
            "decoder_sparse_step": _other_than(1),
            "qkv_bias": lambda v: v is False,
        },
    ),
    "gemma": Family(
        "GemmaForCausalLM",
        activation="gelu_tanh",
        norm_offset=1.0,
        scale_embeddings=True,
        tie_word_embeddings=True,
        refuse={"hidden_act": _GELU, "hidden_activation": _GELU, "attention_bias": _set, "use_bidirectional_attention": _set},
    ),
    "deepseek": Family(
        "DeepseekForCausalLM",
        moe=_deepseek,
        refuse={
            "hidden_act": _SILU,
            "attention_bias": _set,
            "moe_layer_freq": _other_than(1),
            "scoring_func": _other_than("softmax"),
            "routed_scaling_factor": _other_than(1.0, None),
        },
    ),
}


def family_of(model_type: Any) -> Family:
    """The row of `FAMILIES`; raises ModelError with the known names for any other model_type."""
    if model_type not in FAMILIES:
        raise ModelError(f"model_type {model_type!r} is not supported; moe_lm runs: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def from_hf(raw: Raw) -> ModelConfig:
    """Read a Hugging Face config.json. Raises ModelError for a missing key, an unknown family or an unsupported option."""
    family = family_of(raw.get("model_type"))
    raw = _rope_parameters(raw)
    for option, unsupported in {**_EVERYWHERE, **family.refuse}.items():
        if option in raw and unsupported(raw[option]):
            raise ModelError(f"config option {option} = {raw[option]!r} is not supported for model_type {raw['model_type']}")
    for option in sorted(raw.keys() - _READ - _EVERYWHERE.keys() - family.refuse.keys() - _WITHOUT_EFFECT):
        if raw[option]:
            raise ModelError(f"config option {option} = {raw[option]!r} is not known to moe_lm (model_type {raw['model_type']})")
    try:
        heads = raw["num_attention_heads"]
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
            tie_word_embeddings=raw.get("tie_word_embeddings", family.tie_word_embeddings),
            qkv_bias=family.qkv_bias,
            activation=family.activation,
            norm_offset=family.norm_offset,
            scale_embeddings=family.scale_embeddings,
            sliding_window=raw.get("sliding_window") if family.sliding_window else None,
            moe=family.moe(raw) if family.moe else None,
            bos_token_id=raw.get("bos_token_id"),
            eos_token_ids=_ids(raw.get("eos_token_id")),
        )
    except KeyError as missing:
        raise ModelError(f"config.json of model_type {raw['model_type']} has no {missing.args[0]!r}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ModelError where it is missing or is none."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return value


def to_hf(config: ModelConfig, dtype: str = "float32") -> dict[str, Any]:
    """The config.json that makes transformers build the same model; `from_hf(to_hf(c)) == c`."""
    family = family_of(config.family)
    raw: dict[str, Any] = {
        "architectures": [family.architecture],
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
        "hidden_act": {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}[config.activation],
        "torch_dtype": dtype,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
    }
    if family.sliding_window:
        raw["sliding_window"] = config.sliding_window
    return raw | (_MOE_TO_HF[config.family](config.moe) if config.moe else {})


_MOE_TO_HF: dict[str, Callable[[MoEConfig], dict[str, Any]]] = {
    "mixtral": lambda moe: {"num_local_experts": moe.num_experts, "num_experts_per_tok": moe.num_experts_per_tok},
    "qwen2_moe": lambda moe: {
        "num_experts": moe.num_experts,
        "num_experts_per_tok": moe.num_experts_per_tok,
        "moe_intermediate_size": moe.moe_intermediate_size,
        "shared_expert_intermediate_size": moe.shared_expert_intermediate_size,
        "norm_topk_prob": moe.norm_topk_prob,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    "deepseek": lambda moe: {
        "n_routed_experts": moe.num_experts,
        "num_experts_per_tok": moe.num_experts_per_tok,
        "moe_intermediate_size": moe.moe_intermediate_size,
        "n_shared_experts": moe.shared_expert_intermediate_size // moe.moe_intermediate_size,
        "norm_topk_prob": moe.norm_topk_prob,
        "first_k_dense_replace": moe.first_dense_layers,
        "moe_layer_freq": 1,
        "scoring_func": "softmax",
    },
}


def _rope_parameters(raw: Raw) -> dict[str, Any]:
    # transformers 5 writes rope_parameters = {rope_type, rope_theta, ..}; earlier versions rope_theta and rope_scaling
    flat = dict(raw)
    rope = flat.pop("rope_parameters", None)
    if rope:
        flat["rope_theta"] = rope.get("rope_theta", flat.get("rope_theta", 10000.0))
        if rope.get("rope_type", "default") != "default":
            flat["rope_scaling"] = rope
        if "partial_rotary_factor" in rope:
            flat["partial_rotary_factor"] = rope["partial_rotary_factor"]
    return flat


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
