"""How many parameters a configuration has, by definition and in one place (no weights, no torch).

- Total counts every tensor, a tied embedding once.
- Activated is total minus the routed experts that a token does not visit.
- Non-embedding leaves out the input embedding and an untied output head.
"""

from dataclasses import dataclass

from moe_lm.config import ModelConfig


@dataclass(frozen=True, slots=True)
class ParameterCount:
    total: int
    activated: int
    activated_non_embedding: int


def count(config: ModelConfig) -> ParameterCount:
    """The parameters of the decoder that `config` describes: what `moe_lm.model.Decoder` builds, tensor by tensor."""
    D, moe = config.hidden_size, config.moe
    q, kv = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
    attention = D * (q + 2 * kv) + q * D + (q + 2 * kv if config.qkv_bias else 0)
    qk_norms = {None: 0, "head": 2 * config.head_dim, "projection": q + kv}[config.qk_norm]
    norms = (4 if config.post_norms else 2) * D + qk_norms
    sparse_layers = config.num_sparse_layers
    dense_layers = config.num_hidden_layers - sparse_layers
    body = config.num_hidden_layers * (attention + norms) + dense_layers * 3 * D * config.intermediate_size + D  # the last norm
    idle = 0
    if moe:
        expert, shared = 3 * D * moe.moe_intermediate_size, 3 * D * moe.shared_expert_intermediate_size
        router = D * moe.num_experts
        gate = D if shared and moe.shared_expert_gate else 0
        body += sparse_layers * (moe.num_experts * expert + shared + router + gate)
        idle = sparse_layers * (moe.num_experts - moe.num_experts_per_tok) * expert
    embeddings = config.vocab_size * D * (1 if config.tie_word_embeddings else 2)
    return ParameterCount(embeddings + body, embeddings + body - idle, body - idle)
