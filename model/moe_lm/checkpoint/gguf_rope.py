"""How a GGUF file scales rotary embeddings: the keys rope.scaling.*, and the factors of frequencies that it may hold as tensors.

Llama 3.1 and later have rope_freqs.weight and no key: llama.cpp's converter computes a factor for each pair of dimensions. LongRoPE has
rope_factors_short.weight and rope_factors_long.weight. Rules and defaults are those of llama.cpp's loader and of `ggml_rope`.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from moe_lm import kinds, rope
from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.checkpoint.gguf_header import shown
from moe_lm.config import ModelConfig
from moe_lm.errors import ModelError, Unsupported

FREQS, SHORT, LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
TENSORS = frozenset({FREQS, SHORT, LONG})
_ARCHITECTURES = ("llama", "deepseek")  # those with such tensors

# keys that change what llama.cpp computes, and the values with which they do not
_NEUTRAL: Mapping[str, tuple[float, ...]] = {
    "alpha": (0.0,),
    "yarn_log_multiplier": (0.0,),
    "yarn_ext_factor": (1.0, -1.0),  # -1: not set
    "yarn_attn_factor": (1.0, -1.0),
}
_NUMBER = kinds.number("a finite number", lambda value: True)


Factors = Mapping[str, list[float]]  # of frequencies, one for each pair of dimensions: the tensors of `TENSORS` that a file has


def factors_of(file: GGUFFile, pairs: int) -> Factors:
    """The file's factors. Raises ModelError where there are not as many as pairs of dimensions, or one is not above 0."""
    return {name: _factors(file, name, pairs) for name in sorted(TENSORS & set(file.tensors))}


def with_rope_scaling(config: ModelConfig, metadata: Mapping[str, Any], factors: Factors) -> ModelConfig:
    """The configuration with a file's rope scaling. Raises ModelError for one that moe_lm does not compute."""
    arch = metadata["general.architecture"]
    if factors and arch not in _ARCHITECTURES:
        raise Unsupported(f"tensor {min(factors)} is not supported for GGUF architecture {arch}")
    prefix = f"{arch}.rope.scaling."
    keys = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    scale = metadata.get(f"{arch}.rope.scale_linear")
    for name, value in ({prefix + key: value for key, value in keys.items()} | {f"{arch}.rope.scale_linear": scale}).items():
        kind = kinds.TEXT if name == f"{prefix}type" else _NUMBER
        if value is not None and name != f"{prefix}finetuned" and not kind.holds(value):
            raise ModelError(f"GGUF option {name} = {shown(value)} is not valid: it must be {kind.words}")
    for key, values in _NEUTRAL.items():
        if keys.get(key, values[0]) not in values:
            raise Unsupported(f"GGUF option {prefix}{key} = {keys[key]!r} is not supported, only {values[0]}")
    # llama.cpp's default type is linear; scale_linear is the factor's old name, and 0 means that it is not set
    kind, factor = keys.get("type", "linear"), keys.get("factor", scale) or 1.0
    try:
        scaling = _scaling(config, kind, factor, keys, factors)
    except ModelError as error:
        raise type(error)(f"GGUF option {prefix}type = {kind!r}: {error}") from None
    longest = scaling.max_seq_len if isinstance(scaling, rope.LongRopeScaling) else config.max_seq_len
    return replace(config, rope_scaling=scaling, max_seq_len=longest)


def _scaling(config: ModelConfig, kind: Any, factor: Any, keys: Mapping[str, Any], factors: Factors) -> rope.RopeScaling | None:
    def scaling(**raw: Any) -> rope.RopeScaling | None:
        return rope.from_hf(raw, config.rope_theta, config.head_dim, config.max_seq_len)

    original, attention_factor = keys.get("original_context_length", config.max_seq_len), keys.get("attn_factor", 1.0)
    if factors.keys() not in ([{SHORT, LONG}] if kind == "longrope" else [{FREQS}, set()] if kind in ("none", "linear") else [set()]):
        raise ModelError(f"it does not go with the tensors that the file has: {', '.join(factors) or 'no factors of frequencies'}")
    if kind == "longrope" and factor == 1.0:
        return scaling(
            rope_type="longrope",
            short_factor=factors[SHORT],
            long_factor=factors[LONG],
            original_max_position_embeddings=original,
            attention_factor=attention_factor,
        )
    if kind == "yarn" and attention_factor == 1.0:
        betas = {key: keys[f"yarn_{key}"] for key in ("beta_fast", "beta_slow") if f"yarn_{key}" in keys}
        return scaling(rope_type="yarn", factor=factor, original_max_position_embeddings=original, **betas)
    if kind not in ("none", "linear") or attention_factor != 1.0:
        raise Unsupported(f"factor {factor!r} with attn_factor {attention_factor!r} is not supported")
    plain = None if kind == "none" or factor == 1.0 else scaling(rope_type="linear", factor=factor)
    if not factors:
        return plain
    if plain:
        raise Unsupported(f"factor {factor!r} is not supported together with the tensor {FREQS}")
    # the same factors for any length
    return scaling(
        rope_type="longrope",
        short_factor=factors[FREQS],
        long_factor=factors[FREQS],
        original_max_position_embeddings=config.max_seq_len,
        attention_factor=1.0,
    )


def _factors(file: GGUFFile, name: str, pairs: int) -> list[float]:
    if file.shape(name) != (pairs,):
        raise ModelError(f"tensor {name} has shape {file.shape(name)}, its config says {(pairs,)}")
    values: list[float] = np.concatenate(list(file.chunks(name))).tolist()
    if wrong := [value for value in values if not 0 < value < math.inf]:
        raise ModelError(f"tensor {name} holds {wrong[0]}, which is not a number above 0; the checkpoint is damaged")
    return values
