"""Quantised weights computed as they are stored: the bits of their float32 numbers, or 8-bit integers that depend on no layout."""

import gc
import os
import subprocess
import sys

import pytest
import torch
from cpu_cases import needs_kernels
from gguf import quants
from gguf_files import ARCHITECTURES, TYPES, gguf_tensors, quantized_file, random_blocks, wide_config, write
from int8_products import product
from tiny_models import logits, tiny_decoder, tokens

from moe_lm.backends import backend_class, build
from moe_lm.backends.cpu.pack import PackedMatrix
from moe_lm.backends.cpu.pack_quantized import PackedBlocks
from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.checkpoint.read import open_checkpoint
from moe_lm.model import Linear
from moe_lm.quant.kinds import KINDS

pytestmark = [needs_kernels, pytest.mark.usefixtures("one_thread")]
IDS = tokens(12, seed=0, vocab=260)


def backends(path):
    """The checkpoint expanded, as it is stored, and as it is stored in int8."""
    checkpoint = open_checkpoint(path)
    read = [checkpoint.read(torch.float32, "cpu", None, quantized) for quantized in (False, True, True)]
    return [build(model, "cpu", int8) for model, int8 in zip(read, (False, False, True), strict=True)]


def assert_equal_and_near(expanded, exact, int8):
    expected = logits(expanded, IDS)
    assert expected.isfinite().all()
    assert expected.std() > 0.01
    assert torch.equal(logits(exact, IDS), expected)
    assert 0 < norm_difference(logits(int8, IDS), expected) < 0.3


def norm_difference(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_family_has_the_bits_of_its_expanded_weights(tmp_path, family, tied):
    """The kinds by turns, so that queries, keys and values, or gate and up, are of different kinds; then each matrix of another."""
    for seed in (0, 5):
        assert_equal_and_near(*backends(quantized_file(tmp_path / "m.gguf", family, tied, seed=seed)))


@pytest.mark.parametrize("family", ["llama", "qwen2_moe"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_bits_of_its_expanded_weights(tmp_path, family, kind):
    assert_equal_and_near(*backends(quantized_file(tmp_path / "m.gguf", family, tied=True, kind=TYPES[kind])))


def test_quantised_norms_are_expanded(tmp_path):
    """llama.cpp's quantize leaves vectors alone; other tools need not, and their blocks lie along the only dimension."""
    config = wide_config("llama")
    tensors, types = gguf_tensors(tiny_decoder(config)), {}
    for name, array in tensors.items():
        types[name] = TYPES.Q8_0 if array.ndim == 1 else TYPES.F32
    model, exact, _ = backends(write(tmp_path / "m.gguf", config, tensors, types))
    assert torch.equal(logits(model, IDS), logits(exact, IDS))
    expected = quants.dequantize(quants.quantize(tensors["blk.1.ffn_norm.weight"], TYPES.Q8_0), TYPES.Q8_0)
    found = dict(open_checkpoint(tmp_path / "m.gguf").stream())["layers.1.ffn_norm.weight"]
    assert torch.equal(found, torch.from_numpy(expected))


@pytest.mark.parametrize("family", ["qwen2", "mixtral", "gemma3_text"])
def test_some_matrices_are_of_other_types(tmp_path, family):
    """Half of them float16 or float32: what shares a product with such a matrix is expanded, and the others are not."""
    config = wide_config(family)
    tensors, types = gguf_tensors(tiny_decoder(config)), {}
    others = ("attn_v", "ffn_up", "output", "blk.1.ffn_down")
    for i, (name, array) in enumerate(tensors.items()):
        if array.ndim < 2 or "ffn_gate_inp" in name or name == "blk.0.attn_v.weight":
            continue
        is_other = any(part in name for part in others) and "attn_output" not in name
        types[name] = TYPES.F16 if is_other else TYPES[KINDS[i % len(KINDS)]]
        tensors[name] = array if is_other else random_blocks(types[name], array.shape, seed=i)
    made = backends(write(tmp_path / "m.gguf", config, tensors, types))
    assert_equal_and_near(*made)
    first, second = made[1].layers
    assert isinstance(first.attention.qkv.matrix, PackedMatrix)
    assert isinstance(first.attention.o.matrix, PackedBlocks)
    assert isinstance(first.ffn.down.matrix, PackedBlocks)
    assert isinstance(second.ffn.down.matrix, PackedMatrix)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma"])
def test_int8_is_the_arithmetic_of_llama_cpp(tmp_path, monkeypatch, family):
    """The plain decoder with products by definition. Rounding may fall otherwise where the numbers before it differ in the last bits."""
    path = quantized_file(tmp_path / "m.gguf", family, tied=True)

    def forward(self, x_TK):
        y_TO = product(x_TK, self.quantized).float()
        return y_TO if self.bias is None else y_TO + self.bias

    expanded, _, int8 = backends(path)
    model = open_checkpoint(path).read(torch.float32, "cpu", None, quantized=True)
    model.embed.weight = torch.nn.Parameter(model.embed.quantized.dequantized()[0], requires_grad=False)
    monkeypatch.setattr(Linear, "forward", forward)
    expected, found = logits(model, IDS), logits(int8, IDS)
    assert norm_difference(found, expected) < min(0.01, norm_difference(logits(expanded, IDS), expected) / 2)


@pytest.mark.parametrize("family", ["qwen2", "qwen2_moe"])
def test_int8_depends_on_no_layout(tmp_path, family):
    """A sequence alone, beside others, and cut in two have the same bits."""
    backend = backends(quantized_file(tmp_path / "m.gguf", family))[2]
    sequences = [tokens(n, seed=n, vocab=260) for n in (70, 1, 9)]
    together = logits(backend, *sequences)
    for sequence, found in zip(sequences, together, strict=True):
        assert torch.equal(found, logits(backend, sequence))
    assert torch.equal(logits(backend, sequences[0][:31]), together[0][:31])


def test_blocks_are_kept_and_float_weights_are_not(tmp_path):
    _, exact, _ = backends(quantized_file(tmp_path / "m.gguf", "mixtral", kind=TYPES.Q4_K))
    for layer in exact.layers:
        products = [layer.attention.qkv, layer.attention.o, layer.ffn.gate_up, layer.ffn.down]
        assert all(isinstance(product.matrix, PackedBlocks) for product in products)
        assert isinstance(layer.ffn.router.matrix, PackedMatrix)
    assert isinstance(exact.head.matrix, PackedBlocks)
    assert isinstance(exact.embedding, PackedBlocks)
    _, tied, _ = backends(quantized_file(tmp_path / "m.gguf", "qwen2", tied=True))
    assert tied.embedding is tied.head.matrix


def test_the_file_is_not_needed_any_more(tmp_path):
    """What is written over it does not change a model that was read: nothing of it is still mapped."""
    path = quantized_file(tmp_path / "m.gguf", "qwen2")
    _, exact, _ = backends(path)
    before = logits(exact, IDS)
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(logits(exact, IDS), before)


MEMORY = """
import sys
from pathlib import Path
import torch
from moe_lm.backends import build
from moe_lm.backends.cpu import backend, library
from moe_lm.checkpoint.read import open_checkpoint
from moe_lm.engine.generator import GenerateRequest, Generator
from moe_lm.engine.memory import trim_heap

def memory(which):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(which)).split()[1])

library.load()
before = memory("VmRSS")
checkpoint = open_checkpoint(Path(sys.argv[1]))
tokenizer = checkpoint.tokenizer
trim_heap()
opened = memory("VmRSS")
model = build(checkpoint.read(torch.float32, "cpu", None, quantized=True), "cpu")
read = memory("VmHWM")
trim_heap()
generator = Generator(model, tokenizer.decode, tokenizer.stop_ids, special=tokenizer.special)
(_, answer), = generator.generate([GenerateRequest(tokenizer.encode("Once upon a time, there was a"), max_new_tokens=40, ignore_eos=True)])
assert len(answer.tokens) == 40
size = Path(sys.argv[1]).stat().st_size
print((read - opened) / size, (memory("VmHWM") - before) / size)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_peak_memory(qwen_path):
    """Of reading and laying out, pages of the mapped file included: little more than the file. So is all of it: what libraries take once
    they are imported is not the model's; its tokenizer, keys and values, and the code that runs for the first time, are."""
    output = subprocess.run([sys.executable, "-c", MEMORY, qwen_path], check=True, capture_output=True, text=True).stdout
    reading, whole = map(float, output.split())
    print(f"Qwen2.5-Coder-0.5B: reading takes {reading:.3f} of the file, with its tokenizer and 40 decoded tokens {whole:.3f}")
    assert 0.7 < reading <= 1.15
    assert 0.7 < whole <= 1.15


@pytest.mark.parametrize("family", ["qwen2", "mixtral"])
def test_no_weight_is_kept_twice_or_expanded(tmp_path, family):
    """Of all tensors that are alive once a back-end is built. A tiny router fills a panel, which is some percent here."""
    path = quantized_file(tmp_path / "m.gguf", family, tied=True, kind=TYPES.Q4_K)
    checkpoint = open_checkpoint(path)
    gc.collect()
    before = {storage.data_ptr() for storage in storages()}
    exact = build(checkpoint.read(torch.float32, "cpu", None, quantized=True), "cpu")
    gc.collect()
    kept = {storage.data_ptr(): storage.nbytes() for storage in storages()}
    stored = sum(each.nbytes for each in GGUFFile(path).tensors.values())
    taken = sum(size for pointer, size in kept.items() if pointer not in before)
    assert exact.head.matrix.nbytes < taken <= 1.1 * stored


def storages():
    return [each.untyped_storage() for each in gc.get_objects() if issubclass(type(each), torch.Tensor) and each.device.type == "cpu"]


def test_other_backends_take_expanded_weights():
    assert backend_class("cpu").quantized
    assert not backend_class("reference").quantized
    assert not backend_class("triton").quantized


def test_real_weights(smollm2_path):
    expanded, exact, int8 = backends(smollm2_path)
    text = open_checkpoint(smollm2_path).tokenizer.encode("The capital of France is Paris, and the capital of Italy is")
    expected = logits(expanded, text)
    assert torch.equal(logits(exact, text), expected)
    found = logits(int8, text)
    assert 0 < norm_difference(found, expected) < 0.1
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() > 0.8
