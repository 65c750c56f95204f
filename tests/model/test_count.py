"""Parameters by definition: against the tensors of a built decoder for every family, and the five real models to the last digit."""

import json
from dataclasses import replace

import pytest
from tiny_models import tiny_config

from moe_lm import known
from moe_lm.config import from_hf, to_hf
from moe_lm.count import ParameterCount, count
from moe_lm.errors import ModelError
from moe_lm.families import FAMILIES
from moe_lm.model import Decoder, MoE

TINY = {family: tiny_config(family, head_dim=16) for family in FAMILIES}

# counted independently of this code: total, activated, activated non-embedding
REAL = {
    "mistral-7b": (7_241_732_096, 7_241_732_096, 6_979_588_096),
    "qwen1.5-7b": (7_721_324_544, 7_721_324_544, 6_476_664_832),
    "gemma-7b": (8_537_680_896, 8_537_680_896, 7_751_248_896),
    "deepseekmoe-16b": (16_375_728_128, 2_828_650_496, 2_409_220_096),
    "qwen1.5-moe-a2.7b": (14_315_784_192, 2_689_173_504, 2_066_843_648),
}

# as their model cards print them, in billions: total, total non-embedding, activated. Qwen3-30B-A3B's 3.3 activated is 3.35 cut off
PRINTED = {
    "llama-3.1-8b": ("8.03", None, None),
    "qwen3-8b": ("8.2", "6.95", None),
    "qwen3-30b-a3b": ("30.5", "29.9", None),
    "olmoe-1b-7b": ("6.9", None, "1.3"),
}


def measured(config):
    """The same three figures, from a built decoder's tensors."""
    model = Decoder(config)
    total = sum(p.numel() for p in model.parameters())  # parameters() gives a tied tensor once
    idle = 0
    for layer in model.layers:
        if isinstance(layer.ffn, MoE):
            routed = sum(p.numel() for p in layer.ffn.experts.parameters())
            idle += routed * (config.moe.num_experts - config.moe.num_experts_per_tok) // config.moe.num_experts
    embeddings = {p.data_ptr(): p.numel() for p in (model.embed.weight, model.lm_head.weight)}
    return ParameterCount(total, total - idle, total - idle - sum(embeddings.values()))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", TINY)
def test_the_count_is_that_of_the_tensors(family, tied):
    config = replace(TINY[family], tie_word_embeddings=tied)
    assert from_hf(to_hf(config)) == config  # a configuration that the family can have
    assert count(config) == measured(config)


@pytest.mark.parametrize("dense", [0, 1, 2, 3])
def test_leading_dense_layers(dense):
    config = replace(TINY["deepseek"], moe=replace(TINY["deepseek"].moe, dense_layers=tuple(range(dense))))
    assert count(config) == measured(config)


@pytest.mark.parametrize("name", REAL)
def test_real_models_to_the_last_digit(name):
    assert count(known.config(name)) == ParameterCount(*REAL[name])


@pytest.mark.parametrize("name", PRINTED)
def test_real_models_to_the_printed_digits(name):
    found = count(known.config(name))
    embeddings = found.activated - found.activated_non_embedding
    for counted, printed in zip((found.total, found.total - embeddings, found.activated), PRINTED[name], strict=True):
        if printed:
            assert f"{counted / 1e9:.{len(printed.partition('.')[2])}f}" == printed


def test_known_configurations():
    assert set(known.names()) == set(REAL) | set(PRINTED)
    mistral, moe = known.config("mistral-7b"), known.config("qwen1.5-moe-a2.7b")
    assert mistral.sliding_window == 4096
    assert known.config("qwen1.5-7b").sliding_window is None
    assert (moe.moe.num_experts, moe.moe.num_experts_per_tok, moe.moe.norm_topk_prob) == (60, 4, False)
    with pytest.raises(ModelError, match="no configuration is named 'qwen'; known: deepseekmoe-16b, "):
        known.config("qwen")


def test_the_configuration_of_a_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_hf(TINY["deepseek"])))
    assert known.in_folder(tmp_path) == TINY["deepseek"]
    for damaged in ("{", "[]"):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(ModelError, match="config"):
            known.in_folder(tmp_path)
