"""Quantised folders whose headers or options were damaged: each is refused in one line, or read; options never change a weight in silence.

A hundred mutations of each file and format, always the same ones; `make test-slow` runs two thousand.
"""

import json
import random
from collections import Counter

import pytest
import torch
from mutations import mutated_bytes, mutated_json
from quantized_folders import METHODS, quantize_folder
from refusals import refused
from tiny_models import tiny_config

from moe_lm.checkpoint.read import open_checkpoint
from moe_lm.errors import ModelError

COUNTS = [100, pytest.param(2000, marks=pytest.mark.slow)]
SMALL = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 64, "vocab_size": 96, "num_hidden_layers": 1}
DTYPES = ["I8", "U8", "I32", "I64", "F16", "BF16", "F32", "F8_E4M3", "F8_E5M2", "BOOL"]


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def folder(method, tmp_path):
    quantization, pack = METHODS[method]
    quantize_folder(tmp_path, tiny_config("llama", **SMALL), pack, quantization)
    return tmp_path


def read(folder):
    """The parameters, or None where one line refuses the folder; as much where weights stay as they are stored.

    Any other exception fails the test.
    """
    whole, packed = (_read(folder, quantized) for quantized in (False, True))
    if isinstance(whole, str):
        assert isinstance(packed, str)  # perhaps of another tensor: the safetensors library goes through them in no certain order
        assert "\n" not in whole
        assert 0 < len(whole) < 600
        return None
    assert all(torch.equal(parameter, packed[name]) for name, parameter in whole.items())
    return whole


def _read(folder, quantized):
    """The parameters, those that are kept as they are stored expanded; or the line."""
    try:
        model = open_checkpoint(folder).read(torch.float32, "cpu", None, quantized)
    except ModelError as error:
        return str(error)
    kept = {f"{name}.weight": each.quantized.dequantized()[0] for name, each in model.named_modules() if getattr(each, "quantized", None)}
    return dict(model.named_parameters()) | kept


@pytest.mark.parametrize("count", COUNTS)
def test_options(method, folder, count):
    expected = read(folder)
    raw = json.loads((folder / "config.json").read_text("utf-8"))
    quantization = raw["quantization_config"]
    more = {
        "bits": 8,
        "sym": True,
        "desc_act": True,
        "version": "gemv",
        "format": "naive-quantized",
        "zero_point": False,
        "ignore": ["re:.*"],
        "dynamic": {".*": {"bits": 8}},
        "weight_block_size": [64, 64],
        "config_groups": {},
        "meta": {"quantizer": "gptqmodel:5.0.0"},
    }
    seen = Counter()
    for i in range(count):
        rng = random.Random(f"{method} {i}")
        mutated = mutated_json(quantization, rng, more)
        try:
            text = json.dumps(raw | {"quantization_config": json.loads(mutated)}).encode()
        except ValueError:
            text = mutated
        (folder / "config.json").write_bytes(text)
        found = read(folder)
        seen[found is None] += 1
        if found and b"weight_block_size" not in mutated:
            assert all(torch.equal(parameter, expected[name]) for name, parameter in found.items()), text
    assert min(seen.values()) > count / 50, seen


@pytest.mark.parametrize("count", COUNTS)
def test_headers(method, folder, count):
    assert read(folder)
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8:end])
    names = sorted(entries)
    seen = Counter()
    for i in range(count):
        rng = random.Random(f"{method} {i}")
        if rng.random() < 0.3:
            text = mutated_json(entries, rng, {"model.layers.0.mlp.up_proj.weight": entries[names[0]]})
        else:
            text = json.dumps(_with_another_tensor(entries, names, rng)).encode()
        text += b" " * (-len(text) % 8)
        path.write_bytes(len(text).to_bytes(8, "little") + text + raw[end:])
        seen[read(folder) is None] += 1
    assert seen[True] > count / 2, seen


def _with_another_tensor(entries, names, rng):
    """One tensor's dtype or shape is another of the same bytes; or it goes by another's end of a name."""
    name = rng.choice(names)
    entry = entries[name]
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    match rng.randrange(3):
        case 0:
            dtype = rng.choice(DTYPES)
            width = {"I8": 1, "U8": 1, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "F32": 4}.get(dtype, 1)
            return entries | {name: entry | {"dtype": dtype, "shape": [size // width]}}
        case 1:
            shape, count = entry["shape"], torch.Size(entry["shape"]).numel()
            other = rng.choice([shape[::-1], [*shape, 1], [1, *shape], [count], [2, -(-count // 2)]])
            return entries | {name: entry | {"shape": other}}
    end = rng.choice(names).rpartition(".")[2]
    renamed = {f"{name.rpartition('.')[0]}.{end}": entry}
    return {key: value for key, value in entries.items() if key != name} | renamed


@pytest.mark.parametrize("count", COUNTS)
def test_values(method, folder, count):
    """Bytes of the tensors: codes of any bits are weights; what cannot be one, such as NaN and an index out of range, is refused."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    for i in range(count):
        path.write_bytes(
            raw[:end] + mutated_bytes(raw[end:], random.Random(f"{method} {i}"))[: len(raw) - end].ljust(len(raw) - end, b"\0")
        )
        found = read(folder)
        assert found is None or all(bool(torch.isfinite(parameter).all()) for parameter in found.values())


def test_a_truncated_folder(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, "model.safetensors")
