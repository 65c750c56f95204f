"""What a model family is: one frozen `Family`, from which config.json, GGUF metadata and tensor names are read.

A family is data only. `moe_lm.config` turns it into a `ModelConfig` and back, `moe_lm.checkpoint` finds the weights by it, and
`moe_lm.model` has the one decoder that all families share.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from moe_lm import kinds
from moe_lm.families.names import GGUF_NAMES, HF_NAMES
from moe_lm.families.sliding_window import SlidingWindow
from moe_lm.kinds import Kind

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

# what the value of a key must be, in every family
KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(SIZES, kinds.COUNT),
    "num_hidden_layers": kinds.LAYERS,
    "num_key_value_heads": kinds.COUNT.or_null(),
    "head_dim": kinds.COUNT,
    "max_position_embeddings": kinds.COUNT,
    "max_window_layers": kinds.COUNT_OR_NONE,
    "use_sliding_window": kinds.FLAG,
    "rope_theta": kinds.ROPE_BASE,
    "rope_scaling": kinds.OBJECT.or_null(),
    "rope_parameters": kinds.OBJECT.or_null(),
    "rms_norm_eps": kinds.EPSILON,
    "tie_word_embeddings": kinds.FLAG,
    "bos_token_id": kinds.TOKEN_ID,
    "eos_token_id": kinds.TOKEN_IDS,
}

# options of every family: see `Family.options`
OPTIONS: Mapping[str, tuple[Any, ...]] = {"partial_rotary_factor": (None, 1.0)}

# how the weights are stored, which changes nothing in the decoder: see `moe_lm.checkpoint.quantized`
QUANTIZATION = frozenset(("quantization_config", "compression_config"))

# see `Family.without_effect`
WITHOUT_EFFECT = frozenset(
    " ".join(
        (
            # what transformers writes of every model: where it came from, its class, what to return, heads for other tasks
            """_commit_hash _name_or_path architectures auto_map dtype finetuning_task id2label is_decoder label2id model_type
            name_or_path num_labels output_attentions output_hidden_states output_router_logits problem_type return_dict
            task_specific_params tokenizer_class torch_dtype transformers.js_config transformers_version use_cache use_return_dict""",
            # how to compute the same
            """_attn_implementation _attn_implementation_autoset _attn_implementation_internal _experts_implementation
            _experts_implementation_internal _flash_attn_2_enabled attn_implementation chunk_size_feed_forward
            experts_implementation pretraining_tp torchscript use_bfloat16 use_flash_attention use_flash_attn""",
            # training
            """attention_dropout attn_dropout attn_pdrop embd_pdrop gradient_checkpointing hidden_dropout initializer_range
            neftune_noise_alpha resid_pdrop router_aux_loss_coef unsloth_fixed unsloth_version""",
            # lengths that training or a tokenizer had, padding, and sampling, which the protocol decides
            """do_sample max_length max_sequence_length max_window_layers model_max_length pad_token_id padding_side temperature
            tokenizer_model_max_length tokenizer_padding_side top_k top_p""",
        )
    ).split()
)


@dataclass(frozen=True, slots=True)
class MoEKeys:
    """Which key of config.json holds each field of `MoEConfig`; None where the family has no such key.

    The shared expert's size is a key of its own, or a number of shared experts that are each as wide as a routed one.
    Layers without experts are the first ones, those of a list, or all but every nth.
    """

    num_experts: str = "num_experts"
    num_experts_per_tok: str = "num_experts_per_tok"
    moe_intermediate_size: str = "moe_intermediate_size"
    shared_expert_intermediate_size: str | None = None
    num_shared_experts: str | None = None
    first_dense_layers: str | None = None
    dense_layers: str | None = None
    sparse_step: str | None = None
    norm_topk_prob: str | None = "norm_topk_prob"  # None: the weights of a token's experts always sum to one
    shared_expert_gate: bool = False  # not a key: is the shared expert multiplied by a sigmoid gate?
    gguf_norm_topk_prob: bool = False  # not a key: what llama.cpp computes where a file has no expert_weights_norm

    def kinds(self) -> dict[str, Kind]:
        """All keys that the family has, and what their values must be."""
        found = {
            self.num_experts: kinds.COUNT,
            self.num_experts_per_tok: kinds.COUNT,
            self.moe_intermediate_size: kinds.COUNT,
            self.shared_expert_intermediate_size: kinds.COUNT_OR_NONE,
            self.num_shared_experts: kinds.COUNT_OR_NONE.or_null(),
            self.first_dense_layers: kinds.COUNT_OR_NONE,
            self.dense_layers: kinds.INTEGERS.or_null(),
            self.sparse_step: kinds.COUNT,
            self.norm_topk_prob: kinds.FLAG,
        }
        return {key: kind for key, kind in found.items() if key}


@dataclass(frozen=True, slots=True)
class Family:
    """What one `model_type` of config.json changes in the shared decoder and in the checkpoint's words.

    `defaults` are the values of keys that a config.json leaves out, as the family's configuration class in transformers has them.
    `aliases` maps other names of keys, which transformers reads as well, to the family's own.
    `kinds` says what the values of keys must be that not every family has (see `KINDS`).
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
    aliases: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()

    hf_names: Mapping[str, str] = field(default_factory=lambda: HF_NAMES)
    gguf_names: Mapping[str, str] = field(default_factory=lambda: GGUF_NAMES)
    gguf_interleaved_rope: bool = False  # do GGUF files hold the two halves of each q and k head's rows interleaved?
