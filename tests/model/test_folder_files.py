"""Which files of a folder hold the weights, what in them is read, and every doubt about it refused in one line."""

import json
import shutil

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file, save_file
from tiny_models import logits, tiny_config, tiny_decoder, word_tokenizer

from moe_lm.checkpoint.random_weights import random_checkpoint
from moe_lm.checkpoint.read import load, open_checkpoint
from moe_lm.checkpoint.write import save
from moe_lm.errors import ModelError

INDEX = "model.safetensors.index.json"
IDS = [1, 2, 3, 40]


def sharded(folder, seed=0, pieces=2, index=True):
    """A model in `pieces` shards; returns its logits."""
    model = tiny_decoder(tiny_config(), seed)
    save(model, word_tokenizer(), folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, placed = sorted(tensors), {}
    for i in range(pieces):
        file = f"model-{i + 1:05}-of-{pieces:05}.safetensors"
        some = names[i::pieces]
        save_file({name: tensors[name] for name in some}, folder / file)
        placed |= dict.fromkeys(some, file)
    if index:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}), "utf-8")
    return logits(model, IDS)


def edit_index(folder, change):
    raw = json.loads((folder / INDEX).read_text("utf-8"))
    change(raw["weight_map"])
    (folder / INDEX).write_text(json.dumps(raw), "utf-8")


def test_the_index_decides_and_other_files_are_ignored(tmp_path):
    """Shards of an older save, Mistral's consolidated.safetensors, a file that is no safetensors file at all."""
    folder, stale = tmp_path / "model", tmp_path / "stale"
    expected = sharded(folder)
    before = load(folder).sha256
    sharded(stale, seed=1, pieces=3)
    for shard in stale.glob("model-*.safetensors"):
        shutil.copy(shard, folder)
    save_file({"tok_embeddings.weight": torch.zeros(3)}, folder / "consolidated.safetensors")
    (folder / "notes.safetensors").write_text("no tensors")
    found = load(folder)
    assert torch.equal(logits(found.model, IDS), expected)
    assert found.sha256 == before


def test_a_whole_file_beside_an_index_that_does_not_name_it_is_said(tmp_path):
    expected = sharded(tmp_path)
    save_file({"x": torch.zeros(3)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    (notice,) = checkpoint.notices
    assert "model.safetensors is not read" in notice
    assert torch.equal(logits(checkpoint.read(torch.float32, "cpu", None), IDS), expected)


def test_shards_without_an_index(tmp_path):
    """All of one number are read, with others beside them; a missing one or two saves are refused."""
    expected = sharded(tmp_path, index=False)
    save_file({"tok_embeddings.weight": torch.zeros(3)}, tmp_path / "consolidated.safetensors")
    assert torch.equal(logits(load(tmp_path).model, IDS), expected)
    shutil.copy(tmp_path / "model-00001-of-00002.safetensors", tmp_path / "model-00001-of-00003.safetensors")
    refused(tmp_path, "model-00001-of-00003.safetensors", INDEX)
    (tmp_path / "model-00001-of-00003.safetensors").unlink()
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    refused(tmp_path, "lacks model-00002-of-00002.safetensors")


def test_files_of_other_names_are_no_guess(tmp_path):
    sharded(tmp_path, pieces=1, index=False)
    shard = tmp_path / "model-00001-of-00001.safetensors"
    shard.rename(tmp_path / "weights.safetensors")
    refused(tmp_path, "weights.safetensors", INDEX)
    (tmp_path / "weights.safetensors").rename(tmp_path / "model.Q8_0.gguf")
    refused(tmp_path, "GGUF", "model.Q8_0.gguf")
    (tmp_path / "model.Q8_0.gguf").rename(tmp_path / "pytorch_model.bin")
    refused(tmp_path, "pickled")


def test_an_adapter_is_not_left_out_in_silence(tmp_path):
    sharded(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}", "utf-8")
    refused(tmp_path, "adapter", "merge")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda index: index.update(lm_head__weight="model-00003-of-00003.safetensors"), ("lacks model-00003-of-00003.safetensors",)),
        (lambda index: index.update({"model.embed_tokens.weight": index["lm_head.weight"]}), ("model.embed_tokens.weight", "places it in")),
        (lambda index: index.update({"model.more.weight": index["lm_head.weight"]}), ("model.more.weight", "is not in")),
        (lambda index: index.update({"lm_head.weight": "../model-00001-of-00002.safetensors"}), ("lm_head.weight", "no safetensors file")),
        (lambda index: index.update({"lm_head.weight": 5}), ("lm_head.weight", "5")),
        (lambda index: index.update({"lm_head.weight": "model.bin"}), ("lm_head.weight", "model.bin")),
        (lambda index: index.clear(), ("weight_map",)),
    ],
)
def test_an_index_that_is_wrong(tmp_path, change, words):
    sharded(tmp_path)
    assert (json.loads((tmp_path / INDEX).read_text("utf-8")))["weight_map"]["lm_head.weight"].endswith("00001-of-00002.safetensors")
    edit_index(tmp_path, change)
    refused(tmp_path, *words)


def test_a_tensor_in_two_files(tmp_path):
    sharded(tmp_path)
    first, second = (tmp_path / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    save_file(load_file(second) | {"lm_head.weight": load_file(first)["lm_head.weight"]}, second)
    refused(tmp_path, "lm_head.weight", "00002-of-00002")
    (tmp_path / INDEX).unlink()
    refused(tmp_path, "lm_head.weight", first.name, second.name)


@pytest.fixture
def one_file(tmp_path):
    save(tiny_decoder(tiny_config()), word_tokenizer(), tmp_path)
    return tmp_path


def rewrite_header(path, change):
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = change(raw[8 : 8 + size].rstrip())
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + size :])


def test_tensors_that_overlap_or_stand_twice_in_a_file(one_file):
    path = one_file / "model.safetensors"
    whole = path.read_bytes()

    def overlap(header):
        entries = json.loads(header)
        entries["model.norm.weight"]["data_offsets"] = entries["lm_head.weight"]["data_offsets"]
        return json.dumps(entries).encode()

    def twice(header):
        entry = json.dumps(json.loads(header)["model.norm.weight"]).encode()
        return header[:-1] + b',"model.norm.weight":' + entry + b"}"

    rewrite_header(path, overlap)
    refused(one_file, "model.safetensors", "not a readable safetensors file")
    path.write_bytes(whole)
    rewrite_header(path, twice)
    refused(one_file, "model.safetensors", "'model.norm.weight' twice")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.float8_e4m3fn, torch.bool])
def test_weights_that_are_no_floats(one_file, dtype):
    tensors = load_file(one_file / "model.safetensors")
    save_file(tensors | {"model.norm.weight": tensors["model.norm.weight"].to(dtype)}, one_file / "model.safetensors")
    refused(one_file, "model.norm.weight", "BF16")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_floats_are_rounded(one_file, dtype):
    before = {name: tensor.to(dtype) for name, tensor in load_file(one_file / "model.safetensors").items()}
    save_file(before, one_file / "model.safetensors")
    assert torch.equal(load(one_file).model.norm.weight, before["model.norm.weight"].float())


def test_rotary_buffers_are_ignored_and_other_surplus_is_not(one_file):
    path = one_file / "model.safetensors"
    tensors = load_file(path)
    expected = logits(load(one_file).model, IDS)
    names = ["model.rotary_emb.inv_freq", *(f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(2))]
    save_file(tensors | {name: torch.ones(4) for name in names}, path)
    assert torch.equal(logits(load(one_file).model, IDS), expected)
    save_file(tensors | {"model.layers.0.self_attn.inv_freq": torch.ones(4)}, path)
    refused(one_file, "unexpected", "model.layers.0.self_attn.inv_freq")


def test_more_layers_or_experts_than_tensors_are_refused_before_they_are_built(one_file, monkeypatch):
    raw = json.loads((one_file / "config.json").read_text("utf-8"))
    (one_file / "config.json").write_text(json.dumps(raw | {"num_hidden_layers": 9000}), "utf-8")
    monkeypatch.setattr("moe_lm.checkpoint.weights.Decoder", None)
    refused(one_file, "lacks", "layers.8999.")
    save(tiny_decoder(tiny_config("qwen2_moe")), word_tokenizer(), one_file / "moe")
    raw = json.loads((one_file / "moe" / "config.json").read_text("utf-8"))
    (one_file / "moe" / "config.json").write_text(json.dumps(raw | {"num_experts": 1_000_000_000}), "utf-8")
    refused(one_file / "moe", "lacks", "experts.999999999.")


@pytest.mark.parametrize("key", ["intermediate_size", "num_attention_heads", "vocab_size", "head_dim", "hidden_size"])
def test_sizes_beyond_the_tensors(one_file, key):
    raw = json.loads((one_file / "config.json").read_text("utf-8"))
    (one_file / "config.json").write_text(json.dumps(raw | {key: 2**31 - 2}), "utf-8")
    refused(one_file, str(one_file))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_lfs_pointers_are_called_so(one_file, name):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 269060552\n"
    (one_file / name).write_text(text, "utf-8")
    refused(one_file, name, "git lfs pull")


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
)
def test_a_link_whose_file_is_gone_is_not_overlooked(one_file, name):
    """As in a cache of the hub that was cleaned up."""
    (one_file / name).unlink(missing_ok=True)
    (one_file / name).symlink_to(one_file / "gone")
    refused(one_file, f"cannot read {one_file / name}")


def test_random_weights_beyond_memory_are_one_line():
    with pytest.raises(ModelError, match=r"the weights take .* GiB"):
        random_checkpoint(tiny_config(vocab_size=300, intermediate_size=2**30, hidden_size=2**30)).read(torch.float32, "cpu", None)
    with pytest.raises(ModelError, match="vocab_size 2147483647"):
        random_checkpoint(tiny_config(vocab_size=2**31 - 1))


@pytest.mark.parametrize(("dtype", "bits"), [("float32", 32), ("bfloat16", 16), ("float16", 16)])
def test_what_precision_the_weights_are_in(dtype, bits, tmp_path):
    """In whatever precision they are then computed."""
    sharded(tmp_path)
    for file in tmp_path.glob("model-*.safetensors"):
        save_file({name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(file).items()}, file)
    stored = open_checkpoint(tmp_path).stored
    assert (stored.precision, stored.bits) == (dtype, bits)
    norms = {name: tensor.float() if "norm" in name else tensor for name, tensor in load_file(file).items()}
    save_file(norms, file)
    assert open_checkpoint(tmp_path).stored.precision == dtype  # most of the bytes
