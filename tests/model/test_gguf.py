"""Reading GGUF files: tiny ones written by the gguf library, every kind of damage, and SmolLM2's own tensors."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import gguf
import numpy as np
import pytest
import torch
from gguf_files import ARCHITECTURES, TYPES, gguf_tensors, write
from refusals import refused as refused_by
from tiny_models import logits, relative_diff, tiny_config, tiny_decoder

from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.checkpoint.read import load, open_checkpoint
from moe_lm.errors import ModelError


def tiny(family="llama", **changes):
    """A model that a GGUF file can describe: a window makes one of architecture llama a mistral, and attention divides by head_dim."""
    options = {"mistral": {"sliding_window": 5}, "gemma3_text": {"query_pre_attn_scalar": 8}}.get(family, {})
    return tiny_decoder(tiny_config(family, vocab_size=260, **options | changes))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_float32(tmp_path, family, tied):
    model = tiny(family, tied=tied)
    found = load(write(tmp_path / "m.gguf", model.config, gguf_tensors(model)))
    expected = dict(model.named_parameters())
    assert dict(found.model.named_parameters()).keys() == expected.keys()
    eps = float(np.float32(model.config.rms_norm_eps))  # as the file holds it
    assert found.model.config == replace(model.config, rms_norm_eps=eps)
    for name, parameter in found.model.named_parameters():
        # Gemma's norms come as 1 + weight, rounded
        assert torch.allclose(parameter, expected[name], rtol=0, atol=2e-7 if "norm" in name and model.config.norm_offset else 0), name
    assert relative_diff(logits(found.model, [1, 2, 3]), logits(model, [1, 2, 3])) <= (1e-5 if model.config.norm_offset else 0)
    assert found.tokenizer.decode(found.tokenizer.encode("ab c<word0>")) == "ab c"


def whole(file, name):
    return np.concatenate(list(file.chunks(name)))


def test_experts_one_by_one(tmp_path):
    """As llama.cpp's first Mixtral files had them."""
    model = tiny("mixtral")
    tensors = {}
    for name, array in gguf_tensors(model).items():
        if "_exps" in name:
            tensors |= {name.replace("_exps", f".{e}"): expert for e, expert in enumerate(array)}
        else:
            tensors[name] = array
    assert "blk.0.ffn_gate.0.weight" in tensors
    found = load(write(tmp_path / "m.gguf", model.config, tensors)).model
    assert all(torch.equal(p, q) for p, q in zip(found.parameters(), model.parameters(), strict=True))


QUANTISED = (TYPES.Q4_K, TYPES.Q5_K, TYPES.Q6_K, TYPES.Q5_0, TYPES.Q8_0, TYPES.Q4_1, TYPES.F16, TYPES.BF16)


@pytest.mark.parametrize("chunk", [1 << 22, 1000])
@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_every_type_equals_the_library_bit_for_bit(tmp_path, monkeypatch, kind, chunk):
    """Random blocks of the stored format itself (the library can't quantise to all of them), read whole and in chunks of rows."""
    monkeypatch.setattr("moe_lm.checkpoint.gguf_file.CHUNK", chunk)
    rows, columns = 13, 512
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 64, (rows, columns // block * size), dtype=np.uint8)  # below 64: no scale is NaN
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("t", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(tmp_path / "m.gguf")
    chunks = list(file.chunks("t"))
    assert len(chunks) == (1 if chunk > 1000 else rows)
    found, expected = np.concatenate(chunks), gguf.dequantize(raw, kind).reshape(rows, columns)
    assert np.isfinite(expected).all()
    assert np.array_equal(found.view(np.uint32), expected.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen2_moe"])
def test_float16_and_q8_0(tmp_path, family):
    model = tiny(family, hidden_size=64, intermediate_size=96, head_dim=16)
    kinds = {
        "blk.0.attn_q.weight": TYPES.Q8_0,
        "blk.1.attn_k.weight": TYPES.F16,
        "token_embd.weight": TYPES.Q8_0,
        "output.weight": TYPES.F16,
    }
    kinds["blk.0.ffn_gate_exps.weight" if model.config.moe else "blk.0.ffn_gate.weight"] = TYPES.Q8_0
    tensors = gguf_tensors(model)
    path = write(tmp_path / "m.gguf", model.config, tensors, kinds)
    file = GGUFFile(path)
    for name, array in tensors.items():
        kind = kinds.get(name, TYPES.F32)
        assert file.tensors[name].type == kind
        assert np.array_equal(whole(file, name), gguf.dequantize(gguf.quantize(np.ascontiguousarray(array), kind), kind))
    assert relative_diff(logits(load(path).model, [5, 6, 7, 8]), logits(model, [5, 6, 7, 8])) <= 0.05


def test_bfloat16_in_memory(tmp_path):
    model = tiny()
    found = load(write(tmp_path / "m.gguf", model.config, gguf_tensors(model)), dtype=torch.bfloat16).model
    assert torch.equal(found.layers[1].attention.q_proj.weight, model.layers[1].attention.q_proj.weight.bfloat16())


# when the file is opened, no weight read, if not said otherwise
refused = partial(refused_by, by=open_checkpoint)


def test_truncated_anywhere(tmp_path):
    model = tiny()
    whole = write(tmp_path / "m.gguf", model.config, gguf_tensors(model)).read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (0, 1, 4, 7, 23, 24, 30, 100, 1000, len(whole) // 20, len(whole) // 2, len(whole) - 64):
        cut.write_bytes(whole[:size])
        refused(cut, "cut.gguf")


def test_not_a_gguf(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGML" + bytes(1000))
    refused(path, "m.gguf", "GGML")
    path.write_bytes(b"GGUF\x01\x00\x00\x00" + bytes(1000))
    refused(path, "m.gguf", "version 1")
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 1000)
    refused(path, "m.gguf")
    refused(tmp_path / "absent.gguf", "absent.gguf")
    refused(tmp_path / "weights.bin", "weights.bin")


def change_tensors(tensors, change):
    if change == "missing":
        del tensors["blk.1.ffn_up.weight"]
    elif change == "surplus":
        tensors["blk.0.extra.weight"] = np.zeros(4, np.float32)
    elif change == "misshapen":
        tensors["blk.0.attn_v.weight"] = np.zeros((16, 31), np.float32)
    else:
        tensors["blk.1.ffn_norm.weight"] = np.full(32, {"nan": np.nan, "infinite": np.inf}[change], np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", ("lacks", "blk.1.ffn_up.weight")),
        ("surplus", ("unexpected", "blk.0.extra.weight")),
        ("misshapen", ("blk.0.attn_v.weight", "(16, 31)", "(16, 32)")),
        ("nan", ("blk.1.ffn_norm.weight", "NaN")),
        ("infinite", ("blk.1.ffn_norm.weight", "infinite")),
    ],
)
def test_damaged_tensors(tmp_path, change, words):
    model = tiny()
    tensors = gguf_tensors(model)
    change_tensors(tensors, change)
    path = write(tmp_path / "m.gguf", model.config, tensors)
    if change in ("nan", "infinite"):
        refused(path, "m.gguf", *words, by=load)
    else:
        refused(path, "m.gguf", *words)


def test_a_type_that_the_library_cannot_dequantise(tmp_path):
    model = tiny()
    path = tmp_path / "m.gguf"
    tensors = gguf_tensors(model) | {"blk.0.attn_norm.weight": np.zeros(32, np.int32)}
    write(path, model.config, tensors, {"blk.0.attn_norm.weight": TYPES.I32})
    refused(path, "m.gguf", "blk.0.attn_norm.weight", "I32")


def written_to(path):
    with open(path, "r+b") as f:
        f.seek(-1, 2)
        f.write(b"\1")


def replaced(path):
    copy = path.with_suffix(".new")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)


@pytest.mark.parametrize("change", [written_to, replaced, lambda path: path.unlink()], ids=["written to", "replaced", "gone"])
def test_a_file_that_changes_before_its_weights_are_read(tmp_path, change):
    model = tiny()
    path = write(tmp_path / "m.gguf", model.config, gguf_tensors(model))
    checkpoint = open_checkpoint(path)
    assert checkpoint.read(torch.float32, "cpu", None).config == checkpoint.config
    change(path)
    with pytest.raises(ModelError, match=r"m\.gguf"):
        checkpoint.read(torch.float32, "cpu", None)


def test_a_file_that_changes_while_its_weights_are_read(tmp_path):
    model = tiny()
    path = write(tmp_path / "m.gguf", model.config, gguf_tensors(model))
    checkpoint = open_checkpoint(path)
    with pytest.raises(ModelError, match="changed after it was opened; run the same command again"):
        checkpoint.read(torch.float32, "cpu", lambda done, total: written_to(path) if done == total else None)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"arch": "mamba"}, ("'mamba' with 0 experts", "llama, qwen2, qwen2moe")),
        ({"context_length": None}, ("llama.context_length",)),
        ({"attention.head_count": None}, ("llama.attention.head_count",)),
        ({"attention.head_count_kv": 3}, ("num_key_value_heads 3",)),
        ({"block_count": 3}, ("llama.block_count is 3", "2 layers")),
        ({"block_count": 1}, ("unexpected", "blk.1.")),
        ({"tokenizer": "rwkv"}, ("tokenizer", "'rwkv'")),
        ({"tokenizer": "llama"}, ("tokenizer", "scores")),
        ({"pre": "kimi-k2"}, ("pre-tokenizer", "'kimi-k2'")),
        ({"token_types": None}, ("tokenizer", "token_type")),
        ({"merges": ["a nonexistent"]}, ("tokenizer", "nonexistent")),
    ],
)
def test_unsupported_metadata(tmp_path, changed, words):
    model = tiny()
    refused(write(tmp_path / "m.gguf", model.config, gguf_tensors(model), **changed), *words)


def test_smollm2_is_read_in_whole_arrays(smollm2_path):
    """Loading is quick because no Python runs for each of the 4.2 million blocks of weights: held as a count, not by the clock."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        load(smollm2_path)
    finally:
        sys.setprofile(None)
    assert 0 < calls < 2_000_000  # 0.8 million, nearly all for the vocabulary


def test_smollm2_tensors_are_those_of_the_gguf_library(smollm2_path):
    file = GGUFFile(smollm2_path)
    wanted = {"token_embd.weight", "blk.0.attn_q.weight", "blk.7.attn_v.weight", "blk.15.ffn_down.weight", "blk.29.ffn_norm.weight"}
    theirs = [tensor for tensor in gguf.GGUFReader(smollm2_path).tensors if tensor.name in wanted]
    assert len(theirs) == 5
    for tensor in theirs:
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(whole(file, tensor.name).view(np.uint32), expected.view(np.uint32)), tensor.name


MEMORY = """
import sys, threading, time
from pathlib import Path
from moe_lm.checkpoint.read import load

def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) * 1024

before, peak, loading = anonymous(), 0, True

def watch():
    global peak
    while loading:
        peak = max(peak, anonymous())
        time.sleep(0.002)

thread = threading.Thread(target=watch)
thread.start()
model = load(Path(sys.argv[1])).model
loading = False
thread.join()
print((peak - before) / sum(p.nbytes for p in model.parameters()))
"""


def test_peak_memory(smollm2_path):
    """What is read is dequantised in chunks: never much more than the weights themselves (the mapped file is not counted)."""
    ratio = float(subprocess.run([sys.executable, "-c", MEMORY, smollm2_path], check=True, capture_output=True, text=True).stdout)
    print(f"SmolLM2: peak memory {ratio:.3f} of the loaded weights")
    assert ratio <= 1.15


def test_what_precision_the_file_is_in(tmp_path):
    """llama.cpp's name for the whole file; where it has none, the type that most bytes are in. Bits a weight are over all tensors."""
    model = tiny()
    tensors = gguf_tensors(model)
    quantised = {name: TYPES.Q8_0 for name, array in tensors.items() if array.ndim == 2 and array.shape[-1] % 32 == 0}
    assert quantised
    named = open_checkpoint(write(tmp_path / "a.gguf", model.config, tensors, quantised, keys={"general.file_type": 15})).stored
    assert (named.precision, 8 < named.bits < 32) == ("Q4_K_M", True)
    assert open_checkpoint(write(tmp_path / "b.gguf", model.config, tensors, quantised)).stored.precision == "Q8_0"
    unknown = {"general.file_type": 9_999}
    assert open_checkpoint(write(tmp_path / "c.gguf", model.config, tensors, keys=unknown)).stored.precision == "float32"
    assert open_checkpoint(write(tmp_path / "d.gguf", model.config, tensors, keys={"general.file_type": 0})).stored.bits == 32
