"""Quantised weights as a file stores them: kept block by block where asked for, refused where a scale is no number."""

import hashlib
import os

import gguf
import numpy as np
import pytest
import torch
from gguf_files import ARCHITECTURES, TYPES, gguf_tensors, quantized_file, random_blocks, wide_config, write
from tiny_models import tiny_config, tiny_decoder

from moe_lm.checkpoint.read import open_checkpoint, sha256_of
from moe_lm.errors import ModelError
from moe_lm.quant.kinds import FLOATS, KINDS
from moe_lm.quant.weight import QuantizedWeight


def test_random_blocks_are_weights_of_a_tiny_model():
    for kind in KINDS:
        values = gguf.dequantize(random_blocks(TYPES[kind], (8, 512)), TYPES[kind])
        assert values.shape == (8, 512)
        assert 0.005 < values.std() < 0.2, kind
        assert np.abs(values).max() < 0.5, kind


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_blocks_stand_for_the_weights_that_are_read_expanded(tmp_path, family, tied):
    checkpoint = open_checkpoint(quantized_file(tmp_path / "m.gguf", family, tied))
    assert checkpoint.is_quantized
    expanded, kept = (checkpoint.read(torch.float32, "cpu", None, quantized) for quantized in (False, True))
    weights = dict(expanded.named_parameters())
    found = dict(kept.named_parameters())
    assert found
    for name, module in kept.named_modules():
        if getattr(module, "quantized", None):
            assert module.weight is None
            found[f"{name}.weight"] = module.quantized.dequantized()[0]
        if getattr(module, "gate_up_quantized", None):
            found[f"{name}.gate_up_EGD"] = torch.cat([each.dequantized() for each in module.gate_up_quantized], dim=1)
        if getattr(module, "down_quantized", None):
            found[f"{name}.down_EDF"] = module.down_quantized.dequantized()
    if tied:
        assert torch.equal(found.pop("lm_head.weight"), found["embed.weight"])
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert sum(p.numel() for p in kept.parameters()) < sum(p.numel() for p in expanded.parameters()) / 20


def test_experts_of_separate_tensors_are_put_together(tmp_path):
    """As llama.cpp's first Mixtral files have them; a matrix whose experts are of different kinds is expanded."""
    config = wide_config("mixtral")
    tensors, types = {}, {}
    for name, array in gguf_tensors(tiny_decoder(config)).items():
        if "_exps" not in name:
            tensors[name] = array
            continue
        for e in range(len(array)):
            expert = name.replace("_exps", f".{e}")
            mixed = name == "blk.1.ffn_down_exps.weight" and e == 3
            types[expert] = TYPES.Q6_K if mixed else TYPES.Q4_K
            tensors[expert] = random_blocks(types[expert], array.shape[1:], seed=len(tensors))
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", config, tensors, types))
    expanded, kept = (checkpoint.read(torch.float32, "cpu", None, quantized) for quantized in (False, True))
    gate, up = kept.layers[1].ffn.experts.gate_up_quantized
    assert torch.equal(torch.cat((gate.dequantized(), up.dequantized()), dim=1), expanded.layers[1].ffn.experts.gate_up_EGD)
    assert torch.equal(kept.layers[0].ffn.experts.down_quantized.dequantized(), expanded.layers[0].ffn.experts.down_EDF)
    assert kept.layers[1].ffn.experts.down_quantized is None
    assert torch.equal(kept.layers[1].ffn.experts.down_EDF, expanded.layers[1].ffn.experts.down_EDF)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize(("kind", "at"), [(kind, at) for kind, places in FLOATS.items() for at in places])
def test_a_scale_that_is_no_number(tmp_path, kind, at, bad):
    """Exactly then a weight is no number, whatever else the block holds; both ways of reading refuse it in the same words."""
    config = wide_config("qwen2", num_hidden_layers=1)
    tensors, name = gguf_tensors(tiny_decoder(config)), "blk.0.ffn_down.weight"
    blocks = random_blocks(TYPES[kind], tensors[name].shape)
    blocks[7].reshape(-1, gguf.GGML_QUANT_SIZES[TYPES[kind]][1])[-1, at : at + 2] = np.array([bad], np.float16).view(np.uint8)
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(gguf.dequantize(blocks, TYPES[kind])).all()
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", config, tensors | {name: blocks}, {name: TYPES[kind]}))
    refusals = set()
    for quantized in (False, True):
        with pytest.raises(ModelError, match=f"tensor {name} holds NaN or infinite values") as refusal:
            checkpoint.read(torch.float32, "cpu", None, quantized)
        refusals.add(str(refusal.value))
    assert len(refusals) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_any_block_with_finite_scales_is_finite(kind):
    """The largest scales with random integers."""
    weights, nbytes = gguf.GGML_QUANT_SIZES[TYPES[kind]]
    blocks = np.random.default_rng(0).integers(0, 256, (1, 500, nbytes), dtype=np.uint8)
    for at in FLOATS[kind]:
        blocks[..., at : at + 2] = np.array([np.finfo(np.float16).max], np.float16).view(np.uint8)
    weight = QuantizedWeight(kind, torch.from_numpy(blocks), weights)
    assert weight.is_finite
    assert weight.dequantized().isfinite().all()


def test_a_file_without_such_tensors_is_not_quantised(tmp_path):
    model = tiny_decoder(tiny_config(vocab_size=260))
    tensors = gguf_tensors(model)
    halves = {name: TYPES.F16 for name, array in tensors.items() if array.ndim == 2}
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", model.config, tensors, halves))
    assert not checkpoint.is_quantized
    kept = checkpoint.read(torch.float32, "cpu", None, quantized=True)
    assert all(torch.equal(p, q) for p, q in zip(kept.parameters(), checkpoint.read(torch.float32, "cpu", None).parameters(), strict=True))


@pytest.mark.parametrize("replacement", [None, b"GGUF"], ids=["gone", "a shorter one"])
def test_a_file_that_is_replaced_while_blocks_are_read(tmp_path, replacement):
    path = quantized_file(tmp_path / "m.gguf", "qwen2")
    checkpoint = open_checkpoint(path)

    def replace_it(done, total):
        path.unlink(missing_ok=True)
        if replacement:
            path.write_bytes(replacement)

    with pytest.raises(ModelError, match=r"m\.gguf changed after it was opened; run the same command again"):
        checkpoint.read(torch.float32, "cpu", replace_it, quantized=True)


def mapped_bytes():
    """Of files, in this process's memory."""
    with open("/proc/self/status") as status:
        return 1024 * int(next(line for line in status if line.startswith("RssFile")).split()[1])


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_reading_blocks_leaves_none_of_them_in_memory(tmp_path):
    """They are checked, and given back until a product needs them."""
    config = wide_config("qwen2", num_hidden_layers=1, intermediate_size=1 << 14)
    tensors = gguf_tensors(tiny_decoder(config))
    large = [f"blk.0.ffn_{which}.weight" for which in ("gate", "up", "down")]
    tensors |= {name: random_blocks(TYPES.Q8_0, tensors[name].shape) for name in large}
    path = write(tmp_path / "m.gguf", config, tensors, dict.fromkeys(large, TYPES.Q8_0))
    checkpoint = open_checkpoint(path)
    size = sum(tensors[name].nbytes for name in large)
    before = mapped_bytes()
    kept = checkpoint.read(torch.float32, "cpu", None, quantized=True)
    after = mapped_bytes()
    blocks = [kept.layers[0].ffn.get_submodule(name).quantized.blocks for name in ("gate_proj", "up_proj", "down_proj")]
    assert sum(each.nbytes for each in blocks) == size
    assert after - before < size / 4
    assert all(int(each.sum()) for each in blocks)
    assert mapped_bytes() - after > size / 2
    del kept, blocks
    assert mapped_bytes() - before < size / 4


def test_the_digest_is_of_all_files(tmp_path):
    path = quantized_file(tmp_path / "m.gguf", "qwen2")
    assert open_checkpoint(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == sha256_of([path])
    assert sha256_of([path, path]) == hashlib.sha256(2 * path.read_bytes()).hexdigest()
    assert sha256_of([path], abandoned=lambda: True) == ""
