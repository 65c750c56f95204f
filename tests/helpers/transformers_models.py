"""Tiny random models of every family, built by transformers: what moe_lm is compared with."""

import copy
import json

import torch
import transformers
from tiny_models import VOCAB, randomise, word_tokenizer

SHAPE = {
    "vocab_size": 260,  # a GGUF file's tokenizer of bytes needs so many
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
SPARSE = {"num_experts": 5, "num_experts_per_tok": 2}
QWEN3_MOE = SPARSE | {"head_dim": 16, "moe_intermediate_size": 20, "tie_word_embeddings": False, "rope_theta": 1e6}


def moe(num_experts, num_experts_per_tok, norm_topk_prob, tied):
    return transformers.Qwen2MoeConfig(
        **SHAPE,
        num_experts=num_experts,
        num_experts_per_tok=num_experts_per_tok,
        norm_topk_prob=norm_topk_prob,
        moe_intermediate_size=20,
        shared_expert_intermediate_size=28,
        tie_word_embeddings=tied,
    )


class DeepseekMoE(torch.nn.Module):
    """DeepSeekMoE's FFN straight from its formulas, a token and an expert at a time (transformers has no class of it)."""

    def __init__(self, config, num_experts, num_experts_per_tok, width, num_shared):
        super().__init__()
        self.k = num_experts_per_tok
        self.gate = torch.nn.Linear(config.hidden_size, num_experts, bias=False)

        def mlp(size):
            part = copy.copy(config)
            part.intermediate_size = size
            return transformers.models.llama.modeling_llama.LlamaMLP(part)

        self.experts = torch.nn.ModuleList(mlp(width) for _ in range(num_experts))
        self.shared_experts = mlp(width * num_shared)

    def forward(self, x):
        out = self.shared_experts(x)
        scores = self.gate(x).softmax(-1)
        for place in torch.cartesian_prod(torch.arange(x.shape[0]), torch.arange(x.shape[1])).tolist():
            weights, ids = scores[*place].topk(self.k)
            out[*place] += sum(w * self.experts[e](x[*place]) for w, e in zip(weights, ids.tolist(), strict=True))
        return out


def deepseek():
    """A llama whose layers, but for the first, have DeepSeekMoE's FFN."""
    config = transformers.LlamaConfig(**SHAPE | {"num_key_value_heads": 6}, tie_word_embeddings=False, attn_implementation="eager")
    model = transformers.LlamaForCausalLM(config)
    for layer in model.model.layers[1:]:
        layer.mlp = DeepseekMoE(config, 7, 3, 20, 2)
    return model


DEEPSEEK_CONFIG = {
    "model_type": "deepseek",
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_routed_experts": 7,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "norm_topk_prob": False,
    "scoring_func": "softmax",
}

CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE, tie_word_embeddings=False, rope_theta=5e5),
    "llama-tied": lambda: transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama-head-dim": lambda: transformers.LlamaConfig(**SHAPE, head_dim=12, tie_word_embeddings=False),
    "llama-mha": lambda: transformers.LlamaConfig(**SHAPE | {"num_key_value_heads": 6}, tie_word_embeddings=False),
    "qwen2": lambda: transformers.Qwen2Config(**SHAPE, tie_word_embeddings=False, rope_theta=1e6),
    "qwen2-tied": lambda: transformers.Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=False, rope_theta=1e6),
    "moe-5-2": lambda: moe(5, 2, False, tied=False),
    "moe-5-3-norm-tied": lambda: moe(5, 3, True, tied=True),
    "moe-8-1-norm": lambda: moe(8, 1, True, tied=False),
    "moe-3-3": lambda: moe(3, 3, False, tied=False),
    "moe-1-1": lambda: moe(1, 1, False, tied=False),
    "moe-some-dense": lambda: transformers.Qwen2MoeConfig(
        **SHAPE, **SPARSE, moe_intermediate_size=20, shared_expert_intermediate_size=28, decoder_sparse_step=2
    ),
    "qwen3-moe": lambda: transformers.Qwen3MoeConfig(**SHAPE, **QWEN3_MOE, norm_topk_prob=True),
    "qwen3-moe-some-dense": lambda: transformers.Qwen3MoeConfig(**SHAPE, **QWEN3_MOE, mlp_only_layers=[1]),
    "olmoe": lambda: transformers.OlmoeConfig(**SHAPE, **SPARSE, tie_word_embeddings=False),
    "mistral": lambda: transformers.MistralConfig(**SHAPE, tie_word_embeddings=False, sliding_window=None),
    "mistral-window": lambda: transformers.MistralConfig(**SHAPE, tie_word_embeddings=False, sliding_window=40),
    "mistral-small-window": lambda: transformers.MistralConfig(**SHAPE, tie_word_embeddings=False, sliding_window=5),
    "gemma": lambda: transformers.GemmaConfig(**SHAPE, head_dim=20),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SHAPE,
        head_dim=20,
        query_pre_attn_scalar=30,
        sliding_window=40,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "gemma3-in-gguf": lambda: transformers.Gemma3TextConfig(  # of which such a file can say all
        **SHAPE,
        head_dim=20,
        query_pre_attn_scalar=20,
        sliding_window=40,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "mixtral": lambda: transformers.MixtralConfig(
        **SHAPE, num_local_experts=5, num_experts_per_tok=2, tie_word_embeddings=False, sliding_window=None
    ),
    "deepseek": deepseek,
}


def save_random(name, folder):
    """transformers' model of `CONFIGS[name]` with random weights, saved in the folder. Returns the model, in float32."""
    theirs = save_random_of(CONFIGS[name](), folder, SHAPE["vocab_size"])
    if name == "deepseek":
        config = folder / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | DEEPSEEK_CONFIG), "utf-8")
    return theirs


def save_random_of(config, folder, vocab_size=VOCAB):
    """As `save_random`, of a configuration, or of a model in its place."""
    theirs = config
    if not isinstance(theirs, torch.nn.Module):
        theirs = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    randomise(theirs.eval())
    theirs.save_pretrained(folder)
    word_tokenizer(vocab_size).save(folder)
    return theirs
