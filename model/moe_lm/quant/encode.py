"""float32 weights -> the bytes of a GGUF type, each block rounded as llama.cpp's quantize rounds it."""

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from torch import Tensor

from moe_lm.backends.cpu import library
from moe_lm.errors import ModelError
from moe_lm.quant import k_quants

LARGEST = torch.finfo(torch.float16).max
_BITS = {"Q4_K": 4, "Q5_K": 5, "Q6_K": 6}
_WIDE = ("F32", "BF16")  # types that hold any float32, if rounded; the others have a float16, as value or as scale


def encode(weights: Tensor, kind: str) -> np.ndarray:
    """uint8 [rows, bytes of a row] of finite float32 [rows, K], rows of whole blocks. Raises ModelError for a weight that is too large."""
    if kind not in _WIDE and len(weights) and (largest := float(weights.abs().max())) > LARGEST:
        raise ModelError(f"it holds {largest:g}, and {kind} has float16 numbers, which end at {LARGEST:,.0f}; write gguf:bf16 or gguf:f32")
    if kind == "F32":
        return weights.contiguous().numpy().view(np.uint8)
    if kind in ("F16", "BF16"):
        return weights.to(torch.float16 if kind == "F16" else torch.bfloat16).contiguous().view(torch.uint8).numpy()
    if kind not in _BITS:
        return quantize(weights.contiguous().numpy(), GGMLQuantizationType[kind])
    blocks = weights.reshape(-1, k_quants.BLOCK)
    return _k_blocks(blocks, _BITS[kind]).reshape(len(weights), -1)


def _k_blocks(blocks: Tensor, bits: int) -> np.ndarray:
    if not library.available():
        return k_quants.quantize(blocks.numpy(), bits)
    from moe_lm.backends.cpu import launch

    return launch.k_quants(blocks.contiguous(), bits).numpy()
