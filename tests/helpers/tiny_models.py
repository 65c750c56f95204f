"""Tiny random models and the few helpers that several tests of moe_lm share."""

import copy

import pytest
import tokenizers
import torch

from moe_lm.backends import build, why_not_cpu
from moe_lm.backends.base import PAGE
from moe_lm.backends.reference import ReferenceBackend
from moe_lm.config import ModelConfig, MoEConfig
from moe_lm.engine.batch import forward
from moe_lm.engine.pages import PagePool
from moe_lm.families import FAMILIES
from moe_lm.families.base import MoEKeys
from moe_lm.model import Decoder
from moe_lm.tokenizer.tokenizer import Tokenizer

VOCAB = 97


def tiny_moe(keys: MoEKeys):
    """Five experts, two a token, and what else the family can have: a shared expert, a leading dense layer."""
    return MoEConfig(
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=48 if keys.moe_intermediate_size == "intermediate_size" else 12,
        shared_expert_intermediate_size=20 if keys.shared_expert_intermediate_size else 24 if keys.num_shared_experts else 0,
        norm_topk_prob=True,
        shared_expert_gate=keys.shared_expert_gate,
        dense_layers=(0,) if keys.first_dense_layers else (),
    )


def tiny_config(family="llama", tied=False, moe=None, **changes):
    """Two layers, four query heads on two key/value heads."""
    row = FAMILIES[family]
    if row.moe and moe is None:
        moe = tiny_moe(row.moe)
    fields = {
        "family": family,
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "max_seq_len": 512,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": tied,
        "qkv_bias": row.qkv_bias,
        "qk_norm": row.qk_norm,
        "activation": row.activation,
        "norm_offset": row.norm_offset,
        "post_norms": row.post_norms,
        "scale_embeddings": row.scale_embeddings,
        "moe": moe,
    }
    if "rope_local_base_freq" in row.defaults:  # its layers have a window or another rotary embedding, so both are needed
        fields |= {"sliding_window": 40, "full_attention_layers": (1,), "rope_local_base_freq": 5000.0, "query_pre_attn_scalar": 12}
    return ModelConfig(**fields | changes)


def tiny_decoder(config: ModelConfig, seed=0):
    """A decoder with random weights whose activations stay of about unit size."""
    model = Decoder(config).eval()
    randomise(model, seed)
    return model


def randomise(model, seed=0):
    """Fill every parameter, norms and biases too (their usual initial 1 and 0 would hide a mistake)."""
    rng = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        p.requires_grad_(False)
        noise = torch.randn(p.shape, generator=rng)
        if "norm" in name:
            p.copy_(1 + 0.2 * noise)
        else:
            p.copy_(noise * (0.5 if p.ndim == 1 else p.shape[-1] ** -0.5))


def tokens(count, seed, vocab=VOCAB):
    """Random token ids."""
    return torch.randint(0, vocab, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def admit(pool, prompt, capacity):
    """A cache in the pool that begins with what is known of the prompt, its last token aside, as the generator asks for one."""
    cache = pool.admit(pool.find(prompt[:-1]))
    assert cache.grow(capacity)
    return cache


def blank_caches(backend, *sequences):
    """An empty cache for each sequence, in a pool of their own."""
    pool = PagePool(backend, sum(-(-len(sequence) // PAGE) for sequence in sequences))
    return [pool.fork(None, len(sequence)) for sequence in sequences]


def on(kernel, model):
    """A copy of the model on a back-end; the test is skipped where the compiled kernels are missing."""
    if kernel == "cpu" and (reason := why_not_cpu(torch.float32)):
        pytest.skip(reason)
    return build(copy.deepcopy(model), kernel)


def word_tokenizer(size=VOCAB):
    """One id a word: "t0 t1 .."; enough for a checkpoint folder."""
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"t{i}": i for i in range(size)}, unk_token="t0"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return Tokenizer(fast, None, (), None)


def run_all(backend, new):
    """`forward`, with the hidden states of every new token: one [T_i, D] a sequence."""
    lengths = [len(tokens) for tokens, _ in new]
    return forward(backend, new, range(sum(lengths))).split(lengths)


def logits(backend, *sequences):
    """moe_lm's logits [T, V] at every position of each sequence, all of them in one batch; of a bare decoder, in plain torch."""
    if isinstance(backend, Decoder):
        backend = ReferenceBackend(backend)
    hidden = run_all(backend, list(zip(sequences, blank_caches(backend, *sequences), strict=True)))
    found = [backend.logits(h) for h in hidden]
    return found if len(found) > 1 else found[0]


def relative_diff(found, expected):
    """Largest difference, in units of the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())
