"""GGUF files that we write: what is read back is what was written, for every family, and what no file can say is refused by name."""

import json
import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from folders_to_convert import QUANTISED, ROWS, checkpoint_of, config_of, moe_of, one_at_a_time
from gguf_files import gguf_tensors, write
from refusals import refused as refused_by
from tiny_models import logits, tiny_decoder, tiny_moe

from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.checkpoint.random_weights import random_checkpoint
from moe_lm.checkpoint.read import open_checkpoint
from moe_lm.checkpoint.write import save
from moe_lm.checkpoint.write_gguf import plan, replan
from moe_lm.errors import ModelError
from moe_lm.families import FAMILIES
from moe_lm.quant.file_types import FILE_TYPES
from moe_lm.rope import DynamicScaling, LinearScaling, Llama3Scaling, LongRopeScaling, YarnScaling

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "gguf_types.json").read_text("utf-8"))["types"]


def written(checkpoint, path, name="f32"):
    made = plan(checkpoint, FILE_TYPES[name], "tiny")
    made.write(path)
    assert path.stat().st_size == made.nbytes
    return open_checkpoint(path)


refused = partial(refused_by, by=lambda config: plan(random_checkpoint(config), FILE_TYPES["f32"], "tiny"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back(tmp_path, family):
    """The configuration, and the bits of all weights and log-probabilities."""
    source = checkpoint_of(config_of(family), tmp_path / "folder")
    found = written(source, tmp_path / "m.gguf")
    eps = float(np.float32(source.config.rms_norm_eps))  # as the file holds it
    expected = replace(source.config, rms_norm_eps=eps, bos_token_id=None, eos_token_ids=(ROWS - 1,))
    assert found.config == expected
    ours, theirs = (each.read(torch.float32, "cpu", None) for each in (source, found))
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        # Gemma's norms are written as 1 + weight, rounded
        assert torch.allclose(one, other, rtol=0, atol=2e-7 if "norm" in name and source.config.norm_offset else 0), name
    assert torch.equal(*(logits(model, [1, 2, 3, 200, 0, 0, 9, 8, 7]) for model in (ours, theirs)))


@pytest.mark.parametrize("family", ["qwen2_moe", "olmoe"])
def test_a_tied_head_is_written_twice_where_llama_cpp_needs_it(tmp_path, family):
    source = checkpoint_of(config_of(family, tied=True), tmp_path / "folder")
    made = plan(source, FILE_TYPES["f32"], "tiny")
    assert any("output.weight" in notice for notice in made.notices)
    found = written(source, tmp_path / "m.gguf")
    assert not found.config.tie_word_embeddings
    models = (each.read(torch.float32, "cpu", None) for each in (source, found))
    assert torch.equal(*(logits(model, [1, 2, 3]) for model in models))


SCALINGS = {
    "linear": LinearScaling(4.0),
    "dynamic": DynamicScaling(2.0),
    "llama3": Llama3Scaling(8.0, 1.0, 4.0, 64),
    "yarn": YarnScaling(4.0, 128, 0.1 * np.log(4.0) + 1),
    "longrope": LongRopeScaling((1.0, 1.5, 2.0, 3.0), (2.0, 4.0, 8.0, 16.0), 128, 512, 1.2),
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_scaled_rotary_embeddings_come_back(tmp_path, kind):
    longest = 128 if kind == "longrope" else 512
    source = checkpoint_of(config_of("llama", rope_scaling=SCALINGS[kind], max_seq_len=longest), tmp_path / "folder")
    found = written(source, tmp_path / "m.gguf")
    assert found.config.max_seq_len == longest
    ours, theirs = (logits(each.read(torch.float32, "cpu", None), list(range(100))) for each in (source, found))
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (config_of("qwen2", sliding_window=5), ("sliding_window",)),
        (
            config_of("qwen2_moe", moe=replace(tiny_moe(FAMILIES["qwen2_moe"].moe), dense_layers=(1,), norm_topk_prob=False)),
            ("dense_layers",),
        ),
        (config_of("qwen2_moe", moe=tiny_moe(FAMILIES["qwen2_moe"].moe)), ("norm_topk_prob true", "with false")),
        (config_of("qwen3_moe", moe=replace(tiny_moe(FAMILIES["qwen3_moe"].moe), norm_topk_prob=False)), ("norm_topk_prob false",)),
        (config_of("gemma", tied=False), ("output matrix of its own",)),
        (config_of("gemma3_text", query_pre_attn_scalar=12), ("query_pre_attn_scalar = 12", "read as 8")),
        (config_of("gemma3_text", num_hidden_layers=4, full_attention_layers=(1, 2)), ("full_attention_layers",)),
        (config_of("qwen2", head_dim=16), ("heads of 64 together", "hidden_size of 32")),
        (config_of("olmoe", num_key_value_heads=2), ("fewer key/value heads",)),
        (config_of("qwen3", rope_scaling=SCALINGS["llama3"]), ("rope_freqs",)),
        (config_of("llama", rope_scaling=YarnScaling(4.0, 128, 2.0)), ("rotary embedding", "yarn")),
        (config_of("llama", rope_scaling=YarnScaling(4.0, 128, 0.1 * np.log(4.0) + 1, truncate=False)), ("rotary embedding",)),
        (config_of("mistral", num_hidden_layers=3, full_attention_layers=(1,)), ("full_attention_layers",)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else value.family,
)
def test_what_no_file_can_say_is_refused(config, words):
    refused(config, config.family, "can't be written as GGUF", *words)


def test_a_window_of_architecture_llama_is_kept_and_said(tmp_path):
    made = plan(random_checkpoint(config_of("mistral")), FILE_TYPES["f32"], "tiny")
    assert any("without a sliding window: the same up to 5 tokens" in notice for notice in made.notices)


def wide(family="llama", **changes):
    """Rows of whole blocks."""
    sizes = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 512}
    return config_of(family, **sizes | changes)


@pytest.mark.parametrize("name", FILE_TYPES)
def test_every_type(tmp_path, name):
    source = checkpoint_of(wide(), tmp_path / "folder")
    path = tmp_path / "m.gguf"
    found = written(source, path, name)
    assert found.stored.precision == {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}.get(name, FILE_TYPES[name].name)
    file = GGUFFile(path)
    kinds = {tensor: info.type.name for tensor, info in file.tensors.items()}
    assert kinds["blk.1.ffn_up.weight"] == FILE_TYPES[name].kind
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    plain = dict(gguf_tensors(source.read(torch.float32, "cpu", None)))
    for tensor, values in plain.items():
        error = np.sqrt(np.mean((np.concatenate(list(file.chunks(tensor))) - values) ** 2) / np.mean(values**2))
        assert error <= {"F32": 0, "BF16": 0.003, "F16": 0.0004, "Q8_0": 0.009, "Q6_K": 0.022}.get(kinds[tensor], 0.1), tensor
        if kinds[tensor] not in ("Q4_K", "Q5_K", "Q6_K"):
            expected = gguf.quantize(np.ascontiguousarray(values), gguf.GGMLQuantizationType[kinds[tensor]])
            assert file.blocks(tensor).tobytes() == expected.tobytes(), tensor


@pytest.mark.parametrize("name", [name for name in FILE_TYPES if name != "f32"])
@pytest.mark.parametrize("case", QUANTISED)
def test_the_types_are_those_of_llama_cpp(case, name):
    """See golden/make_gguf_types_golden.py, which compares the bytes, too."""
    kinds = {entry.name: entry.kind for entry in plan(random_checkpoint(QUANTISED[case]), FILE_TYPES[name], case).entries}
    assert {tensor: kind for tensor, kind in kinds.items() if kind not in ("F32", FILE_TYPES[name].kind)} == GOLDEN[case][name]


def test_a_gguf_source_keeps_what_it_has(tmp_path):
    """Metadata and tokenizer to the byte, tensors that have their type already, and Gemma's norms as they are."""
    config = wide("gemma", tied=True)
    keys = {"general.author": "someone", "general.file_type": 0, "attention.causal": True}
    source = write(
        tmp_path / "source.gguf", config, gguf_tensors(tiny_decoder(config)), {"blk.0.ffn_up.weight": gguf.GGMLQuantizationType.Q8_0}, keys
    )
    made = replan(source, open_checkpoint(source).config, FILE_TYPES["q8_0"])
    made.write(tmp_path / "m.gguf")
    assert made.notices == ()
    before, after = GGUFFile(source), GGUFFile(tmp_path / "m.gguf")
    kept = {key: value for key, value in after.metadata_bytes().items() if key not in ("general.file_type", "general.quantization_version")}
    assert kept.items() <= before.metadata_bytes().items()
    assert before.metadata_bytes().keys() - kept.keys() == {"general.file_type"}
    assert (after.metadata["general.file_type"], after.metadata["general.quantization_version"]) == (7, 2)
    for name in ("blk.0.ffn_up.weight", "blk.0.attn_norm.weight"):
        assert np.array_equal(before.blocks(name), after.blocks(name))
    assert after.tensors["blk.1.ffn_up.weight"].type.name == "Q8_0"


def test_a_source_that_is_quantised_itself_is_said(tmp_path):
    config = wide()
    types = {"blk.0.ffn_up.weight": gguf.GGMLQuantizationType.Q4_1}
    source = write(tmp_path / "source.gguf", config, gguf_tensors(tiny_decoder(config)), types)
    assert "quantised itself (Q4_1)" in replan(source, config, FILE_TYPES["q8_0"]).notices[0]


def test_rows_that_are_no_whole_blocks(tmp_path):
    config = wide(hidden_size=288, num_attention_heads=4, num_key_value_heads=4, head_dim=72, intermediate_size=512)
    made = plan(random_checkpoint(config), FILE_TYPES["q4_k"], "tiny")
    kinds = {entry.name: entry.kind for entry in made.entries}
    assert kinds["blk.1.ffn_up.weight"] == "Q5_0"
    assert kinds["blk.0.attn_v.weight"] == "Q5_1"  # Q5_K in place of Q4_K
    assert kinds["output.weight"] == "Q8_0"
    assert kinds["blk.1.ffn_down.weight"] == "Q4_K"
    assert any("rows of 288 are Q5_0, since these are no whole blocks of Q4_K" in notice for notice in made.notices)
    odd = plan(random_checkpoint(config_of("llama", intermediate_size=50)), FILE_TYPES["q8_0"], "tiny")
    assert {entry.name: entry.kind for entry in odd.entries}["blk.0.ffn_down.weight"] == "F16"


def test_what_float16_can_not_hold_is_refused(tmp_path):
    config = wide()
    model = tiny_decoder(config)
    model.layers[1].ffn.up_proj.weight[3, 4] = 7e4
    save(model, random_checkpoint(config).tokenizer, tmp_path / "folder")
    source = open_checkpoint(tmp_path / "folder")
    for name in ("f16", "q8_0", "q4_k"):
        made = plan(source, FILE_TYPES[name], "tiny")
        refused_by(tmp_path / "m.gguf", "blk.1.ffn_up.weight", "70000", "gguf:bf16", by=made.write)
        assert os.listdir(tmp_path) == ["folder"]
    assert written(source, tmp_path / "m.gguf", "bf16").stored.precision == "bfloat16"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ModelError])
def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path, error):
    made = plan(random_checkpoint(wide()), FILE_TYPES["q8_0"], "tiny")

    def stop(done, total):
        assert [name for name in os.listdir(tmp_path) if name.startswith("m.gguf.")]
        raise error("stop")

    with pytest.raises(error):
        made.write(tmp_path / "m.gguf", stop)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["f32", "q8_0", "q4_k"])
def test_one_parameter_is_in_memory_at_a_time(tmp_path, name):
    source = random_checkpoint(wide("mixtral", moe=moe_of("mixtral", moe_intermediate_size=512)))
    watched, seen = one_at_a_time(source)
    plan(watched, FILE_TYPES[name], "tiny").write(tmp_path / "m.gguf")
    assert len(seen) == len(list(source.stream()))


def test_random_weights_are_those_that_are_read(tmp_path):
    source = random_checkpoint(wide())
    model = source.read(torch.float32, "cpu", None)
    assert all(torch.equal(value, model.get_parameter(name)) for name, value in source.stream())
    found = written(source, tmp_path / "m.gguf").read(torch.float32, "cpu", None)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), found.parameters(), strict=True))


def test_the_metadata_are_llama_cpps(tmp_path):
    """Every key and value of a file for one family, as llama.cpp's converter writes them."""
    written(checkpoint_of(config_of("deepseek"), tmp_path / "folder"), tmp_path / "m.gguf")
    found = GGUFFile(tmp_path / "m.gguf").metadata
    values = {
        key.removeprefix("deepseek."): value for key, value in found.items() if not hasattr(value, "__len__") or isinstance(value, str)
    }
    assert values == {
        "general.architecture": "deepseek",
        "general.type": "model",
        "general.name": "tiny",
        "general.file_type": 0,
        "general.quantization_version": 2,
        "vocab_size": ROWS,
        "context_length": 512,
        "embedding_length": 32,
        "block_count": 2,
        "feed_forward_length": 48,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 8,
        "attention.value_length": 8,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "rope.dimension_count": 8,
        "rope.freq_base": 10000.0,
        "expert_count": 5,
        "expert_used_count": 2,
        "expert_feed_forward_length": 12,
        "expert_weights_norm": False,
        "expert_shared_count": 2,
        "expert_weights_scale": 1.0,
        "leading_dense_block_count": 1,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.eos_token_id": ROWS - 1,
    }
    assert asdict(FILE_TYPES["q4_k_m"]) == {"kind": "Q4_K", "number": gguf.LlamaFileType.MOSTLY_Q4_K_M}
