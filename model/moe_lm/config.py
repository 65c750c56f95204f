"""The decoder's configuration, read from a Hugging Face config.json and written as one.

What differs from family to family is in `moe_lm.families`. An unknown model_type, or an option that the decoder does not
implement, is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe_lm import rope
from moe_lm.errors import ModelError, Unsupported
from moe_lm.families import family_of, rope_keys, sliding_window
from moe_lm.families.base import DEFAULTS, KINDS, OPTIONS, QUANTIZATION, SIZES, WITHOUT_EFFECT, Family, MoEKeys, QKNorm
from moe_lm.families.multimodal import text_config
from moe_lm.files import shown
from moe_lm.rope import LongRopeScaling, RopeScaling

Raw = Mapping[str, Any]  # a config.json


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """The sparse layers: `num_experts` routed experts, of which a token visits `num_experts_per_tok`, and a shared expert for all tokens.

    The shared expert may be absent (size 0), and may stand behind a sigmoid gate.
    """

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int
    norm_topk_prob: bool
    shared_expert_gate: bool = True
    dense_layers: tuple[int, ...] = ()  # the layers that have an FFN and no experts, ascending

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
    qk_norm: QKNorm | None = None
    activation: str = "silu"  # of the FFN's gate: "silu" or "gelu_tanh"
    norm_offset: float = 0.0  # RMSNorm multiplies by norm_offset + weight
    post_norms: bool = False  # attention and FFN end with a norm, too, before they are added to the residual stream
    scale_embeddings: bool = False  # by the square root of hidden_size
    query_pre_attn_scalar: int | None = None  # attention divides scores by its square root; None: by that of head_dim
    rope_scaling: RopeScaling | None = None
    rope_local_base_freq: float | None = None  # rope_theta of the layers with a sliding window, which are not scaled; None: as the others
    sliding_window: int | None = None  # a token attends to itself and the sliding_window - 1 before it ..
    full_attention_layers: tuple[int, ...] = ()  # .. but in these layers, to all before it
    moe: MoEConfig | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.head_dim % 2:
            raise ModelError(f"head_dim {self.head_dim} is odd; rotary embeddings turn pairs of dimensions")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ModelError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}"
            )

    @property
    def attention_scale(self) -> float:
        """Attention multiplies scores by it."""
        return float((self.query_pre_attn_scalar or self.head_dim) ** -0.5)

    def window(self, layer: int) -> int | None:
        """The sliding window of this layer, None where it has none."""
        return None if layer in self.full_attention_layers else self.sliding_window

    def rotary(self, layer: int) -> tuple[float, RopeScaling | None]:
        """rope_theta and rope_scaling of this layer."""
        if self.rope_local_base_freq is not None and self.window(layer) is not None:
            return self.rope_local_base_freq, None
        return self.rope_theta, self.rope_scaling

    def is_sparse(self, layer: int) -> bool:
        """Does this layer have experts?"""
        return self.moe is not None and layer not in self.moe.dense_layers

    @property
    def num_sparse_layers(self) -> int:
        """How many layers have experts."""
        return sum(map(self.is_sparse, range(self.num_hidden_layers)))


def from_hf(raw: Raw) -> ModelConfig:
    """Read a Hugging Face config.json. Raises ModelError for a missing key, an unknown family or an unsupported option."""
    raw = text_config(raw)
    family = family_of(raw.get("model_type"))
    _check_quantization(raw)
    raw = _without_aliases(raw, family)
    _check_kinds(raw, family)
    given = rope_keys.flat_by_layer_type(raw) if "rope_local_base_freq" in family.defaults else rope_keys.flat(raw)
    _check_kinds(given, family)  # those of rope_parameters
    _refuse_unsupported(given, family)
    values = {**DEFAULTS, **family.defaults, **given}
    try:
        heads, width = values["num_attention_heads"], values["hidden_size"]
        if not values["head_dim"] and width % heads:
            raise ModelError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}, and config.json has no head_dim")
        head_dim, rope_theta, max_seq_len = (
            values["head_dim"] or width // heads,
            float(values["rope_theta"]),
            values["max_position_embeddings"],
        )
        scaling = rope.from_hf(values["rope_scaling"], rope_theta, head_dim, max_seq_len)
        window, full_attention_layers = sliding_window.read(values, family.sliding_window, family.model_type)
        return ModelConfig(
            family=family.model_type,
            vocab_size=values["vocab_size"],
            hidden_size=width,
            num_hidden_layers=values["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=values["num_key_value_heads"] or heads,
            head_dim=head_dim,
            intermediate_size=values["intermediate_size"],
            max_seq_len=scaling.max_seq_len if isinstance(scaling, LongRopeScaling) else max_seq_len,
            rope_theta=rope_theta,
            rms_norm_eps=float(values["rms_norm_eps"]),
            tie_word_embeddings=values["tie_word_embeddings"],
            qkv_bias=family.qkv_bias,
            qk_norm=family.qk_norm,
            activation=family.activation,
            norm_offset=family.norm_offset,
            post_norms=family.post_norms,
            scale_embeddings=family.scale_embeddings,
            query_pre_attn_scalar=values.get("query_pre_attn_scalar"),
            rope_scaling=scaling,
            rope_local_base_freq=float(values["rope_local_base_freq"]) if "rope_local_base_freq" in values else None,
            sliding_window=window,
            full_attention_layers=full_attention_layers,
            moe=_moe_from_hf(values, family.moe) if family.moe else None,
            bos_token_id=values["bos_token_id"],
            eos_token_ids=_ids(values["eos_token_id"]),
        )
    except KeyError as missing:
        raise ModelError(f"config.json of model_type {family.model_type} has no {missing.args[0]!r}") from None


def to_hf(config: ModelConfig, dtype: str = "float32") -> dict[str, Any]:
    """The config.json that makes transformers build the same model; `from_hf(to_hf(c)) == c`."""
    family = family_of(config.family)
    raw: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
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
        "torch_dtype": dtype,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
    }
    if config.query_pre_attn_scalar:
        raw["query_pre_attn_scalar"] = config.query_pre_attn_scalar
    if config.rope_local_base_freq is not None:
        raw["rope_local_base_freq"] = config.rope_local_base_freq
    if scaling := config.rope_scaling:
        raw["rope_scaling"] = scaling.to_hf()
        if isinstance(scaling, LongRopeScaling):
            raw["max_position_embeddings"] = scaling.max_position_embeddings
    if family.sliding_window:
        raw |= sliding_window.write(config.sliding_window, config.full_attention_layers, config.num_hidden_layers, family.sliding_window)
    if family.moe and config.moe:
        raw |= _moe_to_hf(config.moe, family.moe)
    return raw | {option: values[0] for option, values in family.options.items() if values[0] is not None}


def _check_quantization(raw: Raw) -> None:
    """Raises ModelError where weights are quantised as moe_lm does not read them; how they are is for `moe_lm.checkpoint` to know."""
    if any(raw.get(key) for key in QUANTIZATION):
        from moe_lm.checkpoint.quantized.scheme import scheme_of  # it imports torch, which counting parameters does without

        scheme_of(raw)


def _check_kinds(given: Raw, family: Family) -> None:
    """Raises ModelError for a value of a wrong type or out of its range; null stands for a default that is null."""
    kinds = {**KINDS, **(family.moe.kinds() if family.moe else {}), **family.kinds}
    nullable = {key for key, value in {**DEFAULTS, **family.defaults}.items() if value is None} | {"rope_theta"}
    for key in sorted(kinds.keys() & given.keys()):
        value = given[key]
        if not kinds[key].holds(value) and not (value is None and key in nullable):
            raise ModelError(f"config option {key} = {shown(value)} is not valid: it must be {kinds[key].words}")


def _refuse_unsupported(given: Raw, family: Family) -> None:
    options = {**OPTIONS, **family.options}
    for option in sorted(options.keys() & given.keys()):
        if given[option] not in options[option]:
            supported = " or ".join(repr(value) for value in options[option])
            raise Unsupported(
                f"config option {option} = {shown(given[option])} is not supported for model_type {family.model_type}, only {supported}"
            )
    read = {*SIZES, *DEFAULTS, *family.defaults, *family.kinds, "max_position_embeddings", "rope_scaling"}
    read |= family.moe.kinds().keys() if family.moe else set()
    for option in sorted(given.keys() - read - options.keys() - WITHOUT_EFFECT - QUANTIZATION - family.without_effect):
        if given[option]:
            raise Unsupported(
                f"config option {shown(option)} = {shown(given[option])} is not known to moe_lm (model_type {family.model_type})"
            )


def _moe_from_hf(values: Raw, keys: MoEKeys) -> MoEConfig:
    width, shared = values[keys.moe_intermediate_size], 0
    if keys.shared_expert_intermediate_size:
        shared = values[keys.shared_expert_intermediate_size]
    elif keys.num_shared_experts:
        shared = width * (values[keys.num_shared_experts] or 0)
    return MoEConfig(
        num_experts=values[keys.num_experts],
        num_experts_per_tok=values[keys.num_experts_per_tok],
        moe_intermediate_size=width,
        shared_expert_intermediate_size=shared,
        norm_topk_prob=values[keys.norm_topk_prob] if keys.norm_topk_prob else True,
        shared_expert_gate=keys.shared_expert_gate,
        dense_layers=_dense_layers(values, keys),
    )


def _dense_layers(values: Raw, keys: MoEKeys) -> tuple[int, ...]:
    first = values[keys.first_dense_layers] if keys.first_dense_layers else 0
    listed = frozenset(values[keys.dense_layers] or () if keys.dense_layers else ())
    step = values[keys.sparse_step] if keys.sparse_step else 1
    return tuple(i for i in range(values["num_hidden_layers"]) if i < first or i in listed or (i + 1) % step)


def _moe_to_hf(moe: MoEConfig, keys: MoEKeys) -> dict[str, Any]:
    raw = {
        keys.num_experts: moe.num_experts,
        keys.num_experts_per_tok: moe.num_experts_per_tok,
        keys.moe_intermediate_size: moe.moe_intermediate_size,
        keys.shared_expert_intermediate_size: moe.shared_expert_intermediate_size,
        keys.norm_topk_prob: moe.norm_topk_prob,
        keys.first_dense_layers: len(moe.dense_layers),
        keys.dense_layers: list(moe.dense_layers),
        keys.sparse_step: 1,
    }
    if keys.num_shared_experts:
        raw[keys.num_shared_experts] = moe.shared_expert_intermediate_size // moe.moe_intermediate_size
    return {key: value for key, value in raw.items() if key}


def _without_aliases(raw: Raw, family: Family) -> Raw:
    for alias, key in family.aliases.items():
        if alias in raw and key in raw and raw[alias] != raw[key]:
            raise ModelError(f"config options {alias} = {shown(raw[alias])} and {key} = {shown(raw[key])} differ, and mean the same")
    return {family.aliases.get(key, key): value for key, value in raw.items()}


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
