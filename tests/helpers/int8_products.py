"""llama.cpp's products of quantised weights and activations, written out with numpy: integers exact, scales in float64."""

import numpy as np
import torch
from gguf.quants import Q4_K
from torch import Tensor

from moe_lm.quant.grouped import GroupedWeight
from moe_lm.quant.weight import QuantizedWeight


def quantized_small(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Q8_0 and Q8_1: numbers, scales and scales times sums of each block of 32. [M, K] -> [M, B, 32], [M, B], [M, B]"""
    x = x.reshape(len(x), -1, 32)
    d = np.abs(x).max(-1) / np.float32(127)
    with np.errstate(divide="ignore"):
        factor = np.where(d == 0, np.float32(0), np.float32(1) / d)
    scaled = x * factor[..., None]
    numbers = np.sign(scaled) * np.floor(np.abs(scaled).astype(np.float64) + 0.5)  # halves away from zero, as roundf
    sums = (numbers.sum(-1).astype(np.float32) * d).astype(np.float16)
    return numbers.astype(np.int64), d.astype(np.float16).astype(np.float64), sums.astype(np.float64)


def quantized_super(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Q8_K: numbers and scales of each block of 256. [M, K] -> [M, B, 256], [M, B]"""
    x = x.reshape(len(x), -1, 256)
    at = np.abs(x).argmax(-1)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.float32(-127) / np.take_along_axis(x, at, -1)
        numbers = np.where(np.isfinite(factor), np.minimum(np.rint(x * factor), 127), 0)
        return numbers.astype(np.int64), np.where(np.isfinite(factor), np.float32(1) / factor, 0)[..., 0].astype(np.float64)


def product(x_MK: Tensor, weight: QuantizedWeight) -> Tensor:
    """Of x and the first matrix, float64 [M, O]; the products of numbers are whole, so that only the scales' sums can round."""
    x, outputs = x_MK.numpy(), weight.shape[1]
    blocks = (
        weight.blocks[0]
        .numpy()
        .reshape(outputs, -1, weight.blocks.shape[2] // (weight.inputs // (256 if weight.kind.endswith("K") else 32)))
    )
    numbers, scales, minimums = _PARTS[weight.kind](blocks)  # [O, B, S, n], [O, B, S], [O, B, S]: S sub-blocks of a block
    if weight.kind.endswith("K"):
        rows, d = quantized_super(x)
        sub = rows.reshape(*rows.shape[:2], numbers.shape[2], -1)
        total = np.einsum("obs,mbsn,obsn->mob", scales[0], sub, numbers) * scales[1].T[None].transpose(0, 2, 1)
        if minimums is not None:
            total = total - np.einsum("obs,mbsn->mob", minimums[0], sub) * minimums[1][None]
        return torch.from_numpy(np.einsum("mob,mb->mo", total, d))
    rows, d, sums = quantized_small(x)
    found = np.einsum("mbn,obn,mb,ob->mo", rows, numbers, d, scales, optimize=False)
    if minimums is not None:
        found = found + np.einsum("mb,ob->mo", sums, minimums)
    return torch.from_numpy(found)


def grouped_product(x_MK: Tensor, weight: GroupedWeight) -> Tensor:
    """The same with 4-bit codes in groups, whose zero points are whole numbers."""
    rows, d, _ = quantized_small(x_MK.numpy())
    codes = torch.stack((weight.codes[0] & 15, weight.codes[0] >> 4), dim=-1).flatten(1).numpy().astype(np.int64)
    repeats = weight.group_size // 32
    zeros, scales = (each[0].repeat_interleave(repeats, dim=1).numpy() for each in (weight.zeros, weight.scales))
    numbers = codes.reshape(*zeros.shape, 32) - zeros[..., None].astype(np.int64)
    return torch.from_numpy(np.einsum("mbn,obn,mb,ob->mo", rows, numbers, d, scales.astype(np.float64)))


def _halves(blocks: np.ndarray, at: int) -> np.ndarray:
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0].astype(np.float64)


def _nibbles(bytes_: np.ndarray) -> np.ndarray:
    return np.concatenate([bytes_ & 15, bytes_ >> 4], axis=-1).astype(np.int64)


def _fifth_bits(blocks: np.ndarray, at: int) -> np.ndarray:
    return np.unpackbits(np.ascontiguousarray(blocks[..., at : at + 4]), axis=-1, bitorder="little").astype(np.int64) << 4


def _super(blocks: np.ndarray, high_at: int | None) -> tuple:
    rows, B, _ = blocks.shape
    scales, minimums = (
        each.reshape(rows, B, 8).astype(np.int64) for each in Q4_K.get_scale_min(np.ascontiguousarray(blocks[..., 4:16]).reshape(-1, 12))
    )
    quants = blocks[..., -128:].reshape(rows, B, 4, 32)
    numbers = np.stack([quants & 15, quants >> 4], axis=3).reshape(rows, B, 8, 32).astype(np.int64)
    if high_at is not None:
        high = blocks[..., None, high_at : high_at + 32] >> np.arange(8)[:, None] & 1
        numbers = numbers | high.astype(np.int64) << 4
    return numbers, (scales, _halves(blocks, 0)), (minimums, _halves(blocks, 2))


def _six_bits(blocks: np.ndarray) -> tuple:
    rows, B, _ = blocks.shape
    low = blocks[..., :128].reshape(rows, B, 2, 2, 32)
    low = np.stack([low & 15, low >> 4], axis=3).reshape(rows, B, 2, 4, 32)
    high = blocks[..., 128:192].reshape(rows, B, 2, 1, 32) >> (np.arange(4) * 2)[:, None] & 3
    numbers = (low | high << 4).astype(np.int64) - 32
    scales = blocks[..., 192:208].view(np.int8).astype(np.int64)
    return numbers.reshape(rows, B, 16, 16), (scales, _halves(blocks, 208)), None


_PARTS = {
    "Q8_0": lambda b: (np.ascontiguousarray(b[..., 2:]).view(np.int8).astype(np.int64), _halves(b, 0), None),
    "Q4_0": lambda b: (_nibbles(b[..., 2:]) - 8, _halves(b, 0), None),
    "Q4_1": lambda b: (_nibbles(b[..., 4:]), _halves(b, 0), _halves(b, 2)),
    "Q5_0": lambda b: ((_nibbles(b[..., 6:]) | _fifth_bits(b, 2)) - 16, _halves(b, 0), None),
    "Q5_1": lambda b: (_nibbles(b[..., 8:]) | _fifth_bits(b, 4), _halves(b, 0), _halves(b, 2)),
    "Q4_K": lambda b: _super(b, None),
    "Q5_K": lambda b: _super(b, 16),
    "Q6_K": _six_bits,
}
