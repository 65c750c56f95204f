"""How many parameters a configuration has, by definition and in one place (no weights needed).

Total counts every tensor, a tied embedding once. Activated leaves out the routed experts that a token does not visit.
"""

from dataclasses import dataclass

from moe_lm.config import ModelConfig


@dataclass(frozen=True, slots=True)
class ParameterCount:
    total: int
    activated: int


def count(config: ModelConfig) -> ParameterCount:
    """Total and activated parameters of the decoder that `config` describes."""
    D, d = config.hidden_size, config.head_dim
    q, kv = config.num_attention_heads * d, config.num_key_value_heads * d
    attention = D * (q + 2 * kv) + q * D + (q + 2 * kv if config.qkv_bias else 0)
    norms = 2 * D
    idle = 0
    if config.moe is None:
        ffn = 3 * D * config.intermediate_size
    else:
        expert = 3 * D * config.moe.moe_intermediate_size
        router, gate = D * config.moe.num_experts, D
        ffn = config.moe.num_experts * expert + 3 * D * config.moe.shared_expert_intermediate_size + router + gate
        idle = (config.moe.num_experts - config.moe.num_experts_per_tok) * expert
    embeddings = config.vocab_size * D * (1 if config.tie_word_embeddings else 2)
    total = embeddings + D + config.num_hidden_layers * (attention + norms + ffn)
    return ParameterCount(total, total - config.num_hidden_layers * idle)
