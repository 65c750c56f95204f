"""What a model family is: one frozen `Family`, from which config.json, GGUF metadata and tensor names are read.

A family is data only. `moe_lm.config` turns it into a `ModelConfig` and back, `moe_lm.checkpoint` finds the weights by it, and
`moe_lm.model` has the one decoder that all families share.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from moe_lm.families.names import GGUF_NAMES, HF_NAMES
from moe_lm.families.sliding_window import SlidingWindow

QKNorm = Literal["head", "projection"]  # queries and keys pass an RMSNorm before they are rotated: over each head, or over all at once

OFF = (None, False)  # for `Family.options`: the option is absent, null or false
SILU = ("silu", None)

# the keys that every config.json has
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")

# the values of keys that a config.json leaves out, where the family's own `defaults` have none
DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": None,  # as many as query heads
    "head_dim": None,  # hidden_size / num_attention_heads
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "sliding_window": None,
    "layer_types": None,
    "bos_token_id": None,
    "eos_token_id": None,
}

# options of every family: see `Family.options`
OPTIONS: Mapping[str, tuple[Any, ...]] = {"partial_rotary_factor": (None, 1.0), "quantization_config": (None, {})}

# see `Family.without_effect`
WITHOUT_EFFECT = frozenset(
    """_name_or_path architectures attention_dropout attn_implementation auto_map chunk_size_feed_forward dtype
    experts_implementation hidden_dropout id2label initializer_range is_decoder label2id max_window_layers
    model_type output_router_logits pad_token_id pretraining_tp return_dict router_aux_loss_coef torch_dtype transformers.js_config
    transformers_version use_cache""".split()
)


@dataclass(frozen=True, slots=True)
class MoEKeys:
    """Which key of config.json holds each field of `MoEConfig`; None where the family has no such key.

    The shared expert's size is a key of its own, or a number of shared experts that are each as wide as a routed one.
    """

    num_experts: str = "num_experts"
    num_experts_per_tok: str = "num_experts_per_tok"
    moe_intermediate_size: str = "moe_intermediate_size"
    shared_expert_intermediate_size: str | None = None
    num_shared_experts: str | None = None
    first_dense_layers: str | None = None
    norm_topk_prob: str | None = "norm_topk_prob"  # None: the weights of a token's experts always sum to one
    shared_expert_gate: bool = False  # not a key: is the shared expert multiplied by a sigmoid gate?

    def present(self) -> set[str]:
        """All keys that the family has."""
        keys = (self.num_experts, self.num_experts_per_tok, self.moe_intermediate_size, self.shared_expert_intermediate_size)
        return {key for key in (*keys, self.num_shared_experts, self.first_dense_layers, self.norm_topk_prob) if key}


@dataclass(frozen=True, slots=True)
class Family:
    """What one `model_type` of config.json changes in the shared decoder and in the checkpoint's words.

    `defaults` are the values of keys that a config.json leaves out, as the family's configuration class in transformers has them.
    `options` maps an option to the values that the decoder implements; another value is refused, and the first is written by
    `to_hf` unless it is None. `without_effect` names options that change nothing in inference, beside those of every family.
    `hf_names` and `gguf_names` map the decoder's modules to tensors: see `moe_lm.families.names`.
    """

    model_type: str
    architecture: str  # Hugging Face's class
    gguf_architecture: str | None = None  # None: its GGUF files call themselves another family's

    qkv_bias: bool = False
    qk_norm: QKNorm | None = None
    activation: str = "silu"  # of the FFN's gate
    norm_offset: float = 0.0  # RMSNorm multiplies by norm_offset + weight; GGUF files hold the sum
    post_norms: bool = False  # do attention and FFN end with a norm, too, before they are added to the residual stream?
    scale_embeddings: bool = False  # by the square root of hidden_size
    sliding_window: SlidingWindow | None = None  # None: every layer sees all tokens before it
    moe: MoEKeys | None = None

    defaults: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()

    hf_names: Mapping[str, str] = field(default_factory=lambda: HF_NAMES)
    gguf_names: Mapping[str, str] = field(default_factory=lambda: GGUF_NAMES)
    gguf_interleaved_rope: bool = False  # do GGUF files hold the two halves of each q and k head's rows interleaved?
