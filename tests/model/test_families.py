"""Families: defaults against transformers, tensor names against the gguf library, and docs/adding-a-model-family.md as written."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import logits, tiny_config, tiny_decoder, word_tokenizer

from moe_lm import families
from moe_lm.checkpoint.gguf_config import hf_config
from moe_lm.checkpoint.read import load
from moe_lm.checkpoint.write import save
from moe_lm.config import from_hf
from moe_lm.errors import ModelError
from moe_lm.families import FAMILIES
from moe_lm.families.base import DEFAULTS, SIZES
from moe_lm.families.names import pieces
from moe_lm.model import Decoder

# 32 heads: a multiple of every family's default number of key/value heads
MINIMAL = {"vocab_size": 300, "hidden_size": 256, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 32}


@pytest.mark.parametrize("family", FAMILIES)
def test_absent_keys_take_the_defaults_of_transformers(family):
    """Ends of text aside, which are read from several files and have no default."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install evalkit-lm[dev]")
    if family not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers has no configuration class for {family}")
    theirs = transformers.CONFIG_MAPPING[family](**MINIMAL).to_dict()
    assert from_hf({"model_type": family, **MINIMAL}) == replace(from_hf(theirs), bos_token_id=None, eos_token_ids=())


@pytest.mark.parametrize("family", FAMILIES)
def test_other_names_of_keys_are_those_of_transformers(family):
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install evalkit-lm[dev]")
    if family not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers has no configuration class for {family}")
    row, theirs = FAMILIES[family], transformers.CONFIG_MAPPING[family].attribute_map
    known = {*SIZES, *DEFAULTS, *row.defaults}
    both = {frozenset(pair) for pair in theirs.items() if known & set(pair)}
    assert {frozenset(pair) for pair in row.aliases.items()} == both
    for alias, key in row.aliases.items():
        assert from_hf({"model_type": family, **MINIMAL, alias: 9}) == from_hf({"model_type": family, **MINIMAL, key: 9})


@pytest.mark.parametrize("raw", [{}, {"rope_theta": None}, {"rope_parameters": {"rope_type": "default"}}])
def test_defaults_that_differ(raw):
    """As Mixtral's, Mistral's, Gemma's and Qwen's configuration classes have them."""
    mixtral, mistral, gemma, moe = (
        from_hf({"model_type": name, **MINIMAL, **raw}) for name in ("mixtral", "mistral", "gemma", "qwen2_moe")
    )
    assert (mixtral.rope_theta, mixtral.rms_norm_eps, mixtral.num_key_value_heads, mixtral.sliding_window) == (1e6, 1e-5, 8, None)
    assert (mistral.rope_theta, mistral.rms_norm_eps, mistral.num_key_value_heads, mistral.sliding_window) == (1e4, 1e-6, 8, 4096)
    assert (gemma.head_dim, gemma.tie_word_embeddings) == (256, True)
    assert moe.moe.norm_topk_prob is False


def test_null_is_not_absent():
    """Mistral's later releases switch the window off by null."""
    assert from_hf({"model_type": "mistral", **MINIMAL, "sliding_window": None}).sliding_window is None


def test_absent_gguf_keys_take_llama_cpps_defaults():
    """They are not the family's own: Mixtral's rope_theta is 1e6 in transformers."""
    numbers = {"embedding_length": 64, "block_count": 2, "feed_forward_length": 96, "attention.head_count": 8, "context_length": 512}
    numbers |= {"attention.layer_norm_rms_epsilon": 1e-5, "expert_count": 4, "expert_used_count": 2}
    text = {"general.architecture": "llama", "tokenizer.ggml.tokens": ["a", "b"]}
    shapes = {f"blk.{layer}.attn_norm.weight": (64,) for layer in range(2)}
    config = from_hf(hf_config(text | {f"llama.{key}": n for key, n in numbers.items()}, shapes))
    assert (config.family, config.rope_theta, config.num_key_value_heads, config.head_dim) == ("mixtral", 1e4, 8, 8)


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.gguf_architecture])
def test_gguf_names_are_what_llama_cpp_calls_the_tensors_of_a_folder(family):
    """Through the gguf library's own table, by which llama.cpp converts a folder."""
    row = FAMILIES[family]
    (arch,) = (arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == row.gguf_architecture)
    theirs = gguf.get_tensor_name_map(arch, 2)
    for parameter, _ in Decoder(tiny_config(family, row.defaults.get("tie_word_embeddings", False))).named_parameters():
        (expected,), (found,) = (pieces(parameter, names, 1) for names in (row.hf_names, row.gguf_names))
        merged = [re.sub(r"experts\.\d+\.", "experts.", name) for name in expected]
        assert [theirs.get_name(name, try_suffixes=(".weight", ".bias")) for name in merged] == found


GUIDE = (Path(__file__).parents[2] / "docs" / "adding-a-model-family.md").read_text("utf-8")


def code_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def patched(source, diff):
    """A source with a diff's added lines, each after the line above it, which must be there once."""
    above = None
    for line in diff.splitlines():
        if line.startswith("+"):
            assert source.count(f"\n{above}\n") == 1, above
            source = source.replace(f"\n{above}\n", f"\n{above}\n{line[1:]}\n")
        above = line[1:]
    return source


@pytest.fixture
def mymodel(tmp_path, monkeypatch):
    """The guide's family, added as the guide says."""
    (module,) = code_blocks("python")
    (tmp_path / "mymodel.py").write_text(module, "utf-8")
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    source = Path(families.__file__).read_text("utf-8")
    for diff in code_blocks("diff"):
        source = patched(source, diff)
    namespace = {}
    exec(compile(source, families.__file__, "exec"), namespace)
    monkeypatch.setitem(FAMILIES, "mymodel", namespace["FAMILIES"]["mymodel"])
    assert list(namespace["FAMILIES"]) == list(FAMILIES)
    yield FAMILIES["mymodel"]
    del sys.modules["moe_lm.families.mymodel"]


def test_a_family_added_by_the_guide(mymodel, tmp_path):
    """It computes what Qwen2, which is Llama with such biases, computes with the same weights under the usual names."""
    model = tiny_decoder(tiny_config("mymodel"))
    save(model, word_tokenizer(), tmp_path / "mymodel")
    tensors = load_file(tmp_path / "mymodel" / "model.safetensors")
    assert "transformer.layers.1.self_attn.q_proj.bias" in tensors
    assert {name.split(".")[0] for name in tensors} == {"transformer", "lm_head"}
    plain = tmp_path / "plain"
    plain.mkdir()
    save_file({name.replace("transformer.", "model."): tensor for name, tensor in tensors.items()}, plain / "model.safetensors")
    raw = json.loads((tmp_path / "mymodel" / "config.json").read_text("utf-8"))
    (plain / "config.json").write_text(json.dumps(raw | {"model_type": "qwen2"}), "utf-8")
    word_tokenizer().save(plain)
    found, expected = (logits(load(folder).model, [1, 2, 3, 40]) for folder in (tmp_path / "mymodel", plain))
    assert torch.equal(found, expected)
    assert torch.equal(found, logits(model, [1, 2, 3, 40]))


def test_the_guides_defaults_and_options(mymodel):
    config = from_hf({"model_type": "mymodel", **MINIMAL, "mymodel_training_stage": 3})
    assert (config.rope_theta, config.num_key_value_heads, config.max_seq_len, config.qkv_bias) == (5e5, 8, 4096, True)
    for option in ({"mlp_bias": True}, {"hidden_act": "relu"}, {"unknown": 1}):
        with pytest.raises(ModelError, match=next(iter(option))):
            from_hf({"model_type": "mymodel", **MINIMAL, **option})


def test_the_guide_enters_three_files():
    assert len(re.findall(r"^## \d+\. `\S+`$", GUIDE, re.MULTILINE)) == len(re.findall(r"^## \d", GUIDE, re.MULTILINE)) == 3
