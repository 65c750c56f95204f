"""What moe_lm makes of the metadata keys that `gguf_config` does not read: without effect here, or refused unless neutral.

The names are llama.cpp's (gguf-py/gguf/constants.py, src/llama-arch.cpp); those of this file stand after the architecture. A key that
is in no table is refused unless it is 0, false or empty, which is how llama.cpp's converters switch an option off.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from moe_lm.checkpoint.gguf_header import shown
from moe_lm.errors import Unsupported

# they describe the training or the conversion; or belong to LayerNorm, which no family of moe_lm has
WITHOUT_EFFECT = frozenset({"rope.scaling.finetuned", "attention.layer_norm_epsilon", "decoder_start_token_id"})

# read by `gguf_rope`
ROPE_SCALING = frozenset(
    {"rope.scale_linear"}
    | {
        f"rope.scaling.{key}"
        for key in """type factor original_context_length attn_factor alpha yarn_log_multiplier yarn_ext_factor yarn_attn_factor
        yarn_beta_fast yarn_beta_slow""".split()
    }
)

# keys that are not switched off by 0, false or nothing, or not by these alone
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.output_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "expert_gating_func": (0, 1),  # not said, softmax
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_weights_scale": (0.0, 1.0),
    "interleave_moe_layer_step": (0, 1),
    "logit_scale": (0.0, 1.0),
    "moe_every_n_layers": (0, 1),
    "residual_scale": (0.0, 1.0),
    "tensor_data_layout": ("", "reference", "Meta AI original pth"),  # the second is how every file of architecture llama lies
}

# keys outside of the architecture that are read, or have no effect: the vocabulary, and what only other kinds of requests need.
# (A prompt is continued, so the end of text that add_eos_token would put behind it has no place there.)
TOKENIZER = frozenset(
    f"tokenizer.ggml.{key}"
    for key in """model pre tokens token_type scores merges bos_token_id eos_token_id eot_token_id eom_token_id eos_token_ids
    unknown_token_id padding_token_id seperator_token_id cls_token_id mask_token_id fim_pre_token_id fim_suf_token_id
    fim_mid_token_id fim_pad_token_id fim_rep_token_id fim_sep_token_id prefix_token_id suffix_token_id middle_token_id
    add_bos_token add_eos_token add_space_prefix token_type_count""".split()
)
# and those that are refused unless neutral: what the file is, and how text becomes tokens
NEUTRAL_ELSEWHERE: Mapping[str, tuple[Any, ...]] = {
    "general.type": ("model",),
    "tokenizer.ggml.add_sep_token": (False,),
    "tokenizer.ggml.remove_extra_whitespaces": (False,),
    "tokenizer.ggml.normalizer.lowercase": (False,),
    "tokenizer.ggml.normalizer.strip_accents": (False,),
    "tokenizer.ggml.precompiled_charsmap": (),
    "tokenizer.ggml.suppress_tokens": (),
}

_LAYERS = 10_000  # more than any model has: a longer list is of another kind


def refuse_unsupported(metadata: Mapping[str, Any], architecture: str, read: Collection[str], equal: Mapping[str, float]) -> None:
    """Raises Unsupported, by name, for a key whose value would change what the model computes and that moe_lm does not implement.

    `read` are the keys that the caller reads, and `equal` those that must have a value that the others give already.
    """
    prefix, endings = f"{architecture}.", {key.rpartition(".")[2] for key in (*read, *TOKENIZER)}
    for name, value in metadata.items():
        key = name.removeprefix(prefix)
        if key == name:
            if name in NEUTRAL_ELSEWHERE:
                if not _is(value, NEUTRAL_ELSEWHERE[name]):
                    _refuse(name, value, NEUTRAL_ELSEWHERE[name])
            elif name.startswith("tokenizer.ggml."):
                if name not in TOKENIZER and not _is_off(value):
                    _refuse(name, value, ())
            elif name.rpartition(".")[2] in endings and not name.startswith("general."):
                raise Unsupported(f"GGUF option {name} = {shown(value)} is not one of architecture {architecture}; convert the model again")
        elif key in equal:
            if not all(type(entry) in (int, float) and math.isclose(entry, equal[key], rel_tol=1e-6) for entry in _entries(value)):
                _refuse(name, value, (equal[key],))
        elif key not in WITHOUT_EFFECT | ROPE_SCALING and key not in read:
            allowed = NEUTRAL.get(key)
            if not (_is_off(value) if allowed is None else _is(value, allowed)):
                _refuse(name, value, allowed or ())


def _entries(value: Any) -> list[Any]:
    """Those of a list, or the value alone. None of a list too long to have one for each layer."""
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return [value]
    if len(value) > _LAYERS:
        return [None]
    return list(value.tolist() if isinstance(value, np.ndarray) else value)


def _is(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Is it one of these, or a list of nothing else? (A bool is no number, and a number no bool.)"""
    return all(
        any(entry == one and isinstance(entry, bool | str) == isinstance(one, bool | str) for one in allowed) for entry in _entries(value)
    )


def _is_off(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return not value.any()
    return not (any(value) if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _refuse(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    only = f", only {' or '.join(map(repr, allowed))}" if allowed else ""
    raise Unsupported(f"GGUF option {name} = {shown(value)} is not supported{only}; run the file with llama.cpp instead")
