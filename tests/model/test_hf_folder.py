"""Hugging Face folders: shards and dtypes that load, and every kind of damage that is refused in one line."""

import json

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file, save_file
from tiny_models import logits, tiny_config, tiny_decoder, word_tokenizer

from moe_lm.checkpoint.read import load, sha256_of
from moe_lm.checkpoint.write import save
from moe_lm.config import from_hf, to_hf
from moe_lm.errors import ModelError
from moe_lm.families import FAMILIES

WEIGHTS = "model.safetensors"


@pytest.fixture(params=["llama", "qwen2_moe"])
def folder(request, tmp_path):
    save(tiny_decoder(tiny_config(request.param)), word_tokenizer(), tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, **changes):
    raw = json.loads((folder / "config.json").read_text("utf-8")) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in raw.items() if v != "absent"}), "utf-8")


def edit_weights(folder, **changes):
    tensors = load_file(folder / WEIGHTS) | {name.replace("__", "."): value for name, value in changes.items()}
    save_file({name: value for name, value in tensors.items() if value is not None}, folder / WEIGHTS)


def test_two_shards_and_bfloat16(folder):
    whole = load(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"]
    tensors = {name: t.bfloat16() for name, t in load_file(folder / WEIGHTS).items()}
    names = sorted(tensors)
    (folder / WEIGHTS).unlink()
    for i in range(2):
        save_file({name: tensors[name] for name in names[i::2]}, folder / f"model-{i + 1:05}-of-00002.safetensors")
    found = load(folder)
    expected = dict(whole.model.named_parameters())
    assert all(torch.equal(p, expected[name].bfloat16().float()) for name, p in found.model.named_parameters())
    assert found.sha256 != whole.sha256


def test_same_bytes_same_digest(folder):
    assert load(folder).sha256 == load(folder).sha256
    before = load(folder).sha256
    edit_config(folder, rms_norm_eps=1e-3)
    assert load(folder).sha256 != before
    assert len(sha256_of([folder / "config.json"])) == 64


@pytest.mark.parametrize("family", FAMILIES)
def test_many_shards_and_back(tmp_path, family):
    """Saved one expert's matrix a file or so, in bfloat16, and read: every bit comes back."""
    model = tiny_decoder(tiny_config(family, **{"sliding_window": 30} if family == "mistral" else {})).bfloat16()
    save(model, word_tokenizer(), tmp_path, shard_bytes=2000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text("utf-8"))
    shards = {p.name for p in tmp_path.glob("*.safetensors")}
    assert len(shards) > 5
    assert set(index["weight_map"].values()) == shards
    assert index["metadata"]["total_size"] == sum(t.nbytes for shard in shards for t in load_file(tmp_path / shard).values())
    found = load(tmp_path, torch.bfloat16).model
    assert found.config == model.config
    assert all(torch.equal(p, q) for p, q in zip(found.parameters(), model.parameters(), strict=True))


def test_a_tied_head_stored_twice_is_no_surplus(tmp_path):
    model = tiny_decoder(tiny_config(tied=True))
    save(model, word_tokenizer(), tmp_path)
    edit_weights(tmp_path, lm_head__weight=model.embed.weight.clone())
    assert torch.equal(logits(load(tmp_path).model, [1, 2]), logits(model, [1, 2]))


def test_progress_ends_at_the_whole(folder):
    seen = []
    model = load(folder, progress=lambda done, total: seen.append((done, total))).model
    total = sum(p.numel() for p in model.parameters())
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_missing_files(folder):
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    refused(folder, str(folder), "safetensors")
    (folder / WEIGHTS).write_bytes(weights)
    (folder / "tokenizer.json").rename(folder / "t")
    refused(folder, "tokenizer.json")
    (folder / "config.json").write_text("{", "utf-8")
    refused(folder, "config.json")
    (folder / "config.json").write_text("[]", "utf-8")
    refused(folder, "config.json")
    (folder / "config.json").unlink()
    refused(folder, "config.json")


def test_truncated_weights(folder):
    whole = (folder / WEIGHTS).read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        (folder / WEIGHTS).write_bytes(whole[:size])
        refused(folder, WEIGHTS)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model__norm__weight", None, ("lacks", "model.norm.weight")),
        ("model__extra__weight", torch.zeros(3), ("unexpected", "model.extra.weight")),
        ("lm_head__weight", torch.zeros(97, 31), ("lm_head.weight", "(97, 31)", "(97, 32)")),
        ("model__norm__weight", torch.full((32,), torch.nan), ("model.norm.weight", "NaN")),
        ("model__norm__weight", torch.full((32,), -torch.inf), ("model.norm.weight", "infinite")),
    ],
)
def test_damaged_tensors(folder, name, value, words):
    edit_weights(folder, **{name: value})
    refused(folder, *words)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": "absent"}, "None"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_size": "absent"}, "hidden_size"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
    ],
)
def test_unsupported_config(folder, changes, word):
    edit_config(folder, **changes)
    refused(folder, word)


@pytest.mark.parametrize(
    ("family", "changes", "word"),
    [
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("qwen2_moe", {"mlp_only_layers": [0.5]}, "mlp_only_layers"),
        ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step"),
        ("qwen3_moe", {"attention_bias": True}, "attention_bias"),
        ("qwen3_moe", {"num_local_experts": 6}, "num_local_experts = 6 and num_experts = 5 differ"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv"),
        ("qwen2_moe", {"qkv_bias": False}, "qkv_bias"),
        ("qwen2_moe", {"num_experts_per_tok": 6}, "num_experts_per_tok"),
        ("gemma", {"hidden_act": "relu"}, "hidden_act"),
        ("gemma", {"hidden_activation": "silu"}, "hidden_activation"),
        ("deepseek", {"moe_layer_freq": 2}, "moe_layer_freq"),
        ("deepseek", {"scoring_func": "sigmoid"}, "scoring_func"),
        ("deepseek", {"routed_scaling_factor": 16.0}, "routed_scaling_factor"),
        ("mistral", {"hidden_act": "gelu"}, "hidden_act"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),  # of a model that no family here is
        ("mixtral", {"some_new_option": [1]}, "some_new_option"),
    ],
)
def test_options_of_one_family(family, changes, word):
    with pytest.raises(ModelError, match=word):
        from_hf(to_hf(tiny_config(family)) | changes)


@pytest.mark.parametrize("family", FAMILIES)
def test_config_round_trip(family):
    config = tiny_config(family, eos_token_ids=(2, 3), bos_token_id=1)
    assert from_hf(to_hf(config)) == config
    parameters = {"rope_type": "default", "rope_theta": 1e4}
    if config.rope_local_base_freq:
        parameters = {
            "full_attention": parameters,
            "sliding_attention": {"rope_type": "default", "rope_theta": config.rope_local_base_freq},
        }
    raw = {key: value for key, value in to_hf(config).items() if key != "rope_local_base_freq"}
    assert from_hf(raw | {"rope_theta": None, "rope_parameters": parameters}) == config
