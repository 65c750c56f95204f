"""Q4_K, Q5_K and Q6_K: the compiled search writes the plain one's bytes, and both those of ggml's reference."""

import ctypes

import gguf
import numpy as np
import pytest
import torch
from cpu_cases import needs_kernels

from moe_lm.backends.cpu.launch import k_quants
from moe_lm.quant import k_quants as plain
from moe_lm.quant.weight import QuantizedWeight

BITS = [4, 5, 6]


def blocks():
    """Normal and heavy-tailed numbers, and every kind of block that a search may stumble over."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((301, 256)).astype(np.float32)
    x[:100] = rng.standard_t(2, (100, 256))
    x[100:150] *= np.exp(2 * rng.standard_normal((50, 256)))
    x[150:170] = np.round(3 * x[150:170]) / 3  # many ties
    x[170], x[171], x[172] = 0, 0.5, -0.25
    x[173, :32] = 0
    x[174], x[175] = np.abs(x[174]), -np.abs(x[175])
    for row, factor in enumerate((1e-8, 1e-20, 1e-30, 3e-38, 1e-40, 1e4), 176):
        x[row] *= factor
    x[182, :64] *= 1e-30
    x[183, ::2] = 0
    return x


@needs_kernels
@pytest.mark.parametrize("bits", BITS)
def test_the_same_bytes_as_in_numpy(bits, threads):
    x = blocks()
    expected = plain.quantize(x, bits)
    assert np.array_equal(k_quants(torch.from_numpy(x), bits).numpy(), expected)
    for count in (0, 1, 2, 3):  # those that fill no vector
        assert np.array_equal(k_quants(torch.from_numpy(x[:count]), bits).numpy(), expected[:count])


@pytest.mark.parametrize("bits", BITS)
def test_the_bytes_of_ggml(bits):
    """Its reference, of a library that was built without fused multiply-adds: with them, a tie may fall to the other side."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install xllamacpp")
    ggml, x = ctypes.CDLL(xllamacpp.xllamacpp.__file__), blocks()
    found = np.zeros((len(x), QuantizedWeight.row_bytes(f"Q{bits}_K", plain.BLOCK)), np.uint8)
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    kind = gguf.GGMLQuantizationType[f"Q{bits}_K"]
    ggml.ggml_quantize_chunk(kind, x.ctypes.data, found.ctypes.data, 0, len(x), 256, None)
    assert np.array_equal(plain.quantize(x, bits), found)


@pytest.mark.parametrize(("bits", "error"), [(4, 0.078), (5, 0.038), (6, 0.020)])
def test_how_much_is_lost(bits, error):
    """Of normal numbers; a step of twice the bits is half as wide."""
    x = np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32)
    found = gguf.dequantize(plain.quantize(x, bits), gguf.GGMLQuantizationType[f"Q{bits}_K"])
    assert 0.8 * error < np.sqrt(np.mean((found - x) ** 2)) < error


@needs_kernels
@pytest.mark.parametrize(
    ("x", "bits"), [(torch.zeros(2, 255), 4), (torch.zeros(256), 4), (torch.zeros(2, 256).double(), 4), (torch.zeros(2, 256), 3)]
)
def test_what_does_not_fit_is_refused(x, bits):
    with pytest.raises(ValueError, match="wanted: "):
        k_quants(x, bits)
