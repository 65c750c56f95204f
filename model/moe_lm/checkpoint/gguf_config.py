"""A GGUF file's metadata in the words of Hugging Face's config.json, which `moe_lm.config.from_hf` reads."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moe_lm import kinds
from moe_lm.checkpoint.gguf_header import shown
from moe_lm.checkpoint.gguf_keys import refuse_unsupported
from moe_lm.errors import ModelError
from moe_lm.families import family_of_gguf
from moe_lm.families.base import Family, MoEKeys
from moe_lm.families.sliding_window import every_layer
from moe_lm.kinds import Kind

Shapes = Mapping[str, tuple[int, ...]]  # of the file's tensors, row-major

_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class _Key:
    """A metadata key (after the architecture), config.json's key for it, and what its value must be."""

    name: str
    ours: str
    kind: Kind = kinds.COUNT
    default: Any = None
    required: bool = False


# keys of every architecture; the defaults are llama.cpp's, which may differ from the family's in transformers
_KEYS = (
    _Key("embedding_length", "hidden_size", required=True),
    _Key("block_count", "num_hidden_layers", required=True),
    _Key("feed_forward_length", "intermediate_size", required=True),
    _Key("attention.head_count", "num_attention_heads", required=True),
    _Key("attention.layer_norm_rms_epsilon", "rms_norm_eps", kinds.EPSILON, required=True),
    _Key("context_length", "max_position_embeddings", required=True),
    _Key("attention.head_count_kv", "num_key_value_heads"),
    _Key("attention.key_length", "head_dim"),
    _Key("rope.freq_base", "rope_theta", kinds.ROPE_BASE, default=10000.0),
)

# further keys of Gemma 3; the defaults are constants of llama.cpp
_LOCAL_ROPE_KEYS = (
    _Key("attention.sliding_window", "sliding_window", required=True),
    _Key("attention.sliding_window_pattern", "sliding_window_pattern", default=6),
    _Key("rope.freq_base_swa", "rope_local_base_freq", kinds.ROPE_BASE, default=10000.0),
)
_LAYERS_OF_27B = 62

# the widths that a file may leave out, as early ones do: rows of a tensor of any layer, [rows, D] or [E, rows, D]
_WIDTHS = {
    "feed_forward_length": ("ffn_gate.weight", "ffn_gate_exps.weight", "ffn_gate.0.weight"),
    "expert_feed_forward_length": ("ffn_gate_exps.weight", "ffn_gate.0.weight"),
    "expert_shared_feed_forward_length": ("ffn_gate_shexp.weight",),
}


def hf_config(metadata: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The file's config.json. Raises ModelError for an unknown architecture, a missing or wrong key, or an unsupported option."""
    values = _Values(metadata, shapes)
    window = values.window()
    family = family_of_gguf(values.architecture, values.count("expert_count"), window is not None)
    local_rope = "rope_local_base_freq" in family.defaults
    keys = [*_KEYS, *(_moe_keys(family.moe) if family.moe else ()), *(_LOCAL_ROPE_KEYS if local_rope else ())]
    config = {key.ours: values.get(key) for key in keys}
    heads = config["num_attention_heads"]
    if not config["head_dim"]:
        if config["hidden_size"] % heads:
            width = f"{values.architecture}.embedding_length {config['hidden_size']}"
            raise ModelError(f"{width} is no multiple of {values.architecture}.attention.head_count {heads}")
        config["head_dim"] = config["hidden_size"] // heads
    if "query_pre_attn_scalar" in family.defaults:  # no key has it: it is head_dim in every size but the 27B
        largest = config["num_hidden_layers"] == _LAYERS_OF_27B
        config["query_pre_attn_scalar"] = config["hidden_size"] // heads if largest else config["head_dim"]
    read = {"expert_count", *(key.name for key in keys)}
    if window is None or (family.sliding_window and family.sliding_window.slides is every_layer):
        read.add("attention.sliding_window")
    refuse_unsupported(metadata, values.architecture, read, _derived(family, config, shapes))
    return (
        {"sliding_window": window}
        | config
        | {
            "model_type": family.model_type,
            "tie_word_embeddings": "output.weight" not in shapes,
            "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
            "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
            "vocab_size": values.vocabulary(),
        }
    )


def _moe_keys(keys: MoEKeys) -> list[_Key]:
    found = [_Key("expert_count", keys.num_experts, required=True), _Key("expert_used_count", keys.num_experts_per_tok, required=True)]
    if keys.moe_intermediate_size != "intermediate_size":
        found.append(_Key("expert_feed_forward_length", keys.moe_intermediate_size, required=True))
    if keys.shared_expert_intermediate_size:
        found.append(_Key("expert_shared_feed_forward_length", keys.shared_expert_intermediate_size, required=True))
    if keys.norm_topk_prob:
        found.append(_Key("expert_weights_norm", keys.norm_topk_prob, kinds.FLAG, default=keys.gguf_norm_topk_prob))
    if keys.num_shared_experts:
        found.append(_Key("expert_shared_count", keys.num_shared_experts, kinds.COUNT_OR_NONE, default=0))
    if keys.first_dense_layers:
        found.append(_Key("leading_dense_block_count", keys.first_dense_layers, kinds.COUNT_OR_NONE, default=0))
    return found


def _derived(family: Family, config: Mapping[str, Any], shapes: Shapes) -> dict[str, float]:
    """The keys that a file may have beside those that are read, and the only values that do not contradict them."""
    found = {
        "attention.value_length": config["head_dim"],
        "rope.dimension_count": config["head_dim"],
        "attention.scale": config.get("query_pre_attn_scalar", config["head_dim"]) ** -0.5,
        "embedding_length_out": config["hidden_size"],
        "rope.freq_base_swa": config.get("rope_local_base_freq", config["rope_theta"]),
    }
    if embedding := shapes.get("token_embd.weight"):
        found["vocab_size"] = embedding[0]
    if family.moe and family.moe.moe_intermediate_size == "intermediate_size":
        found["expert_feed_forward_length"] = config["intermediate_size"]
    if family.moe and family.moe.num_shared_experts:
        shared = config[family.moe.moe_intermediate_size] * config[family.moe.num_shared_experts]
        found["expert_shared_feed_forward_length"] = shared
    return found


class _Values:
    """The architecture's values, each checked when it is read."""

    def __init__(self, metadata: Mapping[str, Any], shapes: Shapes):
        self._metadata, self._shapes = metadata, shapes
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise ModelError(f"general.architecture is {shown(architecture)}, expected a name; convert the model again")
        self.architecture: str = architecture
        self._layers = len({match[1] for name in shapes if (match := _LAYER.match(name))})

    def get(self, key: _Key) -> Any:
        value = self._one(key.name)
        if value is None and key.name in _WIDTHS:
            value = self._width(key.name)
        if value is None:
            if key.required:
                raise ModelError(f"the GGUF file has no {self._full(key.name)}; convert the model again with a current llama.cpp")
            return key.default
        return self._checked(key.name, value, key.kind)

    def count(self, name: str) -> int:
        value = self._one(name)
        return 0 if value is None else int(self._checked(name, value, kinds.COUNT_OR_NONE))

    def window(self) -> int | None:
        """The sliding window, where it is shorter than the context: 0 is how converters say that there is none."""
        window = self.count("attention.sliding_window")
        return window if 0 < window < self.get(_Key("context_length", "", default=math.inf)) else None

    def vocabulary(self) -> int:
        """The number of tokens, each of which has a row in the embedding."""
        size = len(self._metadata.get("tokenizer.ggml.tokens", ()))
        shape = self._shapes.get("token_embd.weight", (size,))
        if shape[:1] != (size,):
            raise ModelError(f"the GGUF file names {size:,} tokens (tokenizer.ggml.tokens), and its token_embd.weight has shape {shape}")
        return size

    def _full(self, name: str) -> str:
        return f"{self.architecture}.{name}"

    def _one(self, name: str) -> Any:
        """The value of a key, or None; of a list with an entry for each layer the one that all layers share."""
        value = self._metadata.get(self._full(name))
        if not isinstance(value, np.ndarray):
            return value
        if not len(value) or (value != value[0]).any():
            raise ModelError(f"{self._full(name)} = {shown(value)} is not supported: it must be the same for all layers")
        if len(value) != self._layers:
            raise ModelError(f"{self._full(name)} has {len(value)} entries for the {self._layers} layers of the file's tensors")
        return value[0].item()

    def _width(self, name: str) -> int | None:
        for stem in _WIDTHS[name]:
            for tensor, shape in self._shapes.items():
                if tensor.endswith(f".{stem}") and len(shape) > 1:
                    return shape[-2]
        return None

    def _checked(self, name: str, value: Any, kind: Kind) -> Any:
        if not kind.holds(value):
            raise ModelError(f"GGUF option {self._full(name)} = {shown(value)} is not valid: it must be {kind.words}")
        if name == "block_count" and value > self._layers:
            raise ModelError(f"{self._full(name)} is {value:,}, and the file holds tensors of {self._layers} layers; download it again")
        return value
