"""Gemma 3's config.json as it was published, in the spellings of transformers 4 and 5; what differs is refused by name."""

import pytest
import transformers
from refusals import refused
from tiny_models import tiny_config

from moe_lm.config import from_hf, to_hf
from moe_lm.count import count
from moe_lm.errors import ModelError
from moe_lm.rope import LinearScaling

FULL, SLIDING = "full_attention", "sliding_attention"
# google/gemma-3-270m
SMALL = {
    "_sliding_window_pattern": 6,
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 640,
    "initializer_range": 0.02,
    "intermediate_size": 2048,
    "layer_types": ([SLIDING] * 5 + [FULL]) * 3,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 512,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.55.0.dev0",
    "use_bidirectional_attention": False,
    "use_cache": True,
    "vocab_size": 262144,
}
SCALED = {"rope_type": "linear", "factor": 8.0}


def test_the_published_configuration():
    config = from_hf(SMALL)
    assert (config.sliding_window, config.full_attention_layers) == (512, (5, 11, 17))
    assert [config.rotary(layer) for layer in (0, 5)] == [(1e4, None), (1e6, None)]
    assert (config.attention_scale, config.tie_word_embeddings, config.head_dim) == (1 / 16, True, 256)
    assert count(config).total == 268_098_176


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": SCALED},
        {"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "default"}},
        {"rope_scaling": SCALED},
        {"rope_theta": 5e5},
        {"rope_local_base_freq": 2e4},
        {"rope_parameters": {FULL: {"rope_theta": 5e5, **SCALED}, SLIDING: {"rope_type": "default", "rope_theta": 2e4}}},
        {"rope_parameters": {FULL: {"rope_theta": 5e5, **SCALED}, SLIDING: {"rope_type": "default"}}, "rope_local_base_freq": 2e4},
        {"rope_parameters": {FULL: {"rope_type": "default"}}, "rope_theta": 5e5},
        {"rope_parameters": {FULL: None, SLIDING: {"rope_type": "default", "rope_theta": 2e4}}},
        {"rope_parameters": {FULL: {"rope_type": "default"}, SLIDING: {"rope_type": "default"}}, "rope_scaling": SCALED},
        {"sliding_window_pattern": 2},
        {"sliding_window_pattern": 1},
        {"layer_types": [FULL, SLIDING]},
        {"layer_types": [FULL, FULL]},
    ],
)
def test_every_spelling_as_transformers_reads_it(changes):
    raw = {"num_hidden_layers": 2, **changes}
    theirs = transformers.Gemma3TextConfig(**{key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()})
    config = from_hf({"model_type": "gemma3_text"} | raw)
    for layer, kind in enumerate(theirs.layer_types):
        expected = theirs.rope_parameters[kind]
        scaling = LinearScaling(expected["factor"]) if expected["rope_type"] == "linear" else None
        assert config.rotary(layer) == (expected["rope_theta"], scaling)
        assert config.window(layer) == (theirs.sliding_window if kind == SLIDING else None)
    assert from_hf(to_hf(config)) == config
    again = transformers.Gemma3TextConfig(**to_hf(config))
    assert (again.layer_types, again.rope_parameters) == (theirs.layer_types, theirs.rope_parameters)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
        ({"hidden_activation": "gelu"}, "hidden_activation"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"sliding_window": None}, "sliding_window = None"),
        ({"sliding_window_pattern": 0}, "sliding_window_pattern = 0"),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar = 0"),
        ({"rope_local_base_freq": 0.0}, "rope_local_base_freq = 0.0"),
        ({"rope_scaling": {"rope_type": "mystery", "factor": 8.0}}, "mystery"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rope_parameters.rope_theta = 10000.0"),
        ({"rope_parameters": {FULL: 3}}, f"rope_parameters.{FULL} = 3"),
        ({"rope_parameters": {SLIDING: SCALED}}, f"rope_parameters.{SLIDING}.factor = 8.0"),
        ({"rope_parameters": {SLIDING: {"rope_type": "default", "rope_theta": -1}}}, "rope_local_base_freq = -1"),
    ],
)
def test_refused(changes, words):
    refused(to_hf(tiny_config("gemma3_text")) | {"layer_types": None} | changes, words, by=from_hf)


def test_rope_parameters_by_layer_type_are_of_no_other_family():
    with pytest.raises(ModelError, match=f"{FULL}|{SLIDING}"):
        from_hf(to_hf(tiny_config("qwen2")) | {"rope_parameters": {FULL: {"rope_type": "default", "rope_theta": 1e5}}})
