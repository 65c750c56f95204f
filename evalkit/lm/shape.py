"""A model's work, by its configuration alone: no torch, no weights."""

from pathlib import Path

from evalkit.bench.roofline import Shape
from evalkit.lm.native import random_configuration
from evalkit.lm.tokenized import one_line
from moe_lm import known
from moe_lm.checkpoint.folder import is_quantized
from moe_lm.config import ModelConfig
from moe_lm.count import count
from moe_lm.quant.kinds import bytes_a_weight


def shape_of(config: ModelConfig, width: float, cached: int) -> Shape:
    """The work of a decoder with this configuration, at `width` bytes per weight and `cached` bytes per cached number."""
    parameters, moe = count(config), config.moe
    embedding = config.vocab_size * config.hidden_size
    sparse_layers = config.num_sparse_layers
    expert = 3 * config.hidden_size * moe.moe_intermediate_size if moe else 0
    top_k = moe.num_experts_per_tok if moe else 0
    return Shape(
        width=width,
        cached=cached,
        embedding=embedding,
        head=embedding,
        always=parameters.activated_non_embedding - sparse_layers * top_k * expert,
        expert=expert,
        experts=moe.num_experts if moe else 0,
        top_k=top_k,
        sparse_layers=sparse_layers,
        kv_per_token=2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim,
        attention_width=config.num_hidden_layers * config.num_attention_heads * config.head_dim,
        window=config.sliding_window,
        full_attention=len(config.full_attention_layers) / config.num_hidden_layers,
        head_is_tied=config.tie_word_embeddings,
    )


def width_of(config: ModelConfig, kind: str) -> float:
    """Bytes of a weight, on average, where a folder's quantised ones are of a kind. Its embedding, output head, routers and the gate of a
    shared expert are float32, as every tool leaves them unless it is told otherwise; which ones are is what tensors say, not read here.
    """
    parameters, moe = count(config), config.moe
    total, floats = parameters.total, parameters.activated - parameters.activated_non_embedding
    if moe:
        has_gate = moe.shared_expert_intermediate_size > 0 and moe.shared_expert_gate
        floats += config.num_sparse_layers * config.hidden_size * (moe.num_experts + has_gate)
    return (4 * floats + bytes_a_weight(kind) * (total - floats)) / total


def shape_of_spec(spec: str, width: int) -> Shape | None:
    """The shape of a model that is not loaded: with random weights, or in a folder; None if only loading tells.

    Raises EvalkitError for a configuration that is unknown or cannot be read.
    """
    if spec.startswith("random:"):
        return shape_of(random_configuration(spec), width, width)
    folder = Path(spec)
    with one_line():
        return shape_of(known.in_folder(folder), width, width) if folder.is_dir() and not is_quantized(folder) else None
