"""float32 weights -> blocks of Q4_K, Q5_K and Q6_K, by the search of ggml's quantize_row_q?_K_ref, in numpy.

The compiled kernel (csrc/k_quants.cpp) writes the same bytes, more than ten times as fast; this is what it is tested against, and what
computes where there is none. G groups of weights, n weights a group: each step is taken for all groups at once, and sums go over a
group's weights in their order, as in the reference: float32 rounds every one of them.
"""

import numpy as np

BLOCK = 256  # weights
_TINY = np.float32(1e-15)  # below it, a group of Q6_K is zero
_FACTORS = np.float32(63)  # the largest of the factors of Q4_K and Q5_K, which have 6 bits


def quantize(weights: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [blocks, bytes of a block] of float32 [blocks, 256]; `bits` is 4, 5 or 6."""
    with np.errstate(all="ignore"):  # a group of zeros divides by zero, and what comes of it is not taken
        return _symmetric(weights) if bits == 6 else _with_minimum(weights, bits)


def _nearest(x: np.ndarray) -> np.ndarray:
    """The nearest whole number, ties to even; of what is no small number the same bits as in the reference."""
    return ((x + np.float32(12582912.0)).view(np.int32) & 0x007FFFFF) - 0x00400000


def _limited(x: np.ndarray, low: int, high: int) -> np.ndarray:
    return _nearest(x).clip(low, high).astype(np.float32)


def _total(terms: np.ndarray) -> np.ndarray:
    """The sum over the first axis, one after another: numpy's own sum adds in pairs."""
    total = np.zeros_like(terms[0])
    for term in terms:
        total = total + term
    return total


def _search_with_minimum(x_nG: np.ndarray, top: int, first: float, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The step between the levels 0 .. top of each group, how far below zero they begin, and the weights' levels [n, G].

    Of `steps` + 1 tries, the one with the least error, weighted by how large a weight is.
    """
    size = np.sqrt(_total(x_nG * x_nG) / np.float32(len(x_nG)))
    importance = size + np.abs(x_nG)
    sum_w, sum_x = _total(importance), _total(importance * x_nG)
    low, high = np.minimum(x_nG.min(axis=0), np.float32(0)), x_nG.max(axis=0)
    lowest, flat = low, high == low
    inverse = np.float32(top) / (high - low)
    scale, chosen = np.float32(1) / inverse, (inverse, low)
    difference = scale * _limited(inverse * (x_nG - low), 0, top) + low - x_nG
    error = _total(importance * (difference * difference))
    for step in range(steps + 1):
        inverse = (np.float32(first) + np.float32(0.1) * np.float32(step) + np.float32(top)) / (high - low)
        level = _limited(inverse * (x_nG - low), 0, top)
        weighted = importance * level
        sum_l, sum_ll, sum_xl = _total(weighted), _total(weighted * level), _total(weighted * x_nG)
        determinant = sum_w * sum_ll - sum_l * sum_l
        new_scale, new_low = (sum_w * sum_xl - sum_x * sum_l) / determinant, (sum_ll * sum_x - sum_l * sum_xl) / determinant
        new_scale = np.where(new_low > 0, sum_xl / sum_ll, new_scale)
        new_low = np.where(new_low > 0, np.float32(0), new_low)
        difference = new_scale * level + new_low - x_nG
        tried = _total(importance * (difference * difference))
        better = (determinant > 0) & (tried < error)
        chosen = (np.where(better, inverse, chosen[0]), np.where(better, low, chosen[1]))
        error, scale, low = np.where(better, tried, error), np.where(better, new_scale, scale), np.where(better, new_low, low)
    level = _limited(chosen[0] * (x_nG - chosen[1]), 0, top)
    zero = np.float32(0)
    return np.where(flat, zero, scale), zero - np.where(flat, lowest, low), np.where(flat, zero, level)


def _search_symmetric(x_nG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The step between the levels -32 .. 31 of each group, of 19 tries, and the weights' levels [n, G], from 0 on."""
    largest = np.abs(x_nG).max(axis=0)
    peak = np.take_along_axis(x_nG, np.abs(x_nG).argmax(axis=0)[None], axis=0)[0]

    def sums(inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        level, importance = _limited(inverse * x_nG, -32, 31), x_nG * x_nG
        return _total(importance * x_nG * level), _total(importance * level * level)

    chosen = np.float32(-32) / peak
    sum_xl, sum_ll = sums(chosen)
    scale = np.where(sum_ll != 0, sum_xl / sum_ll, np.float32(0))
    best = scale * sum_xl
    for step in (*range(-9, 0), *range(1, 10)):
        inverse = -(np.float32(32) + np.float32(0.1) * np.float32(step)) / peak
        sum_xl, sum_ll = sums(inverse)
        better = (sum_ll > 0) & (sum_xl * sum_xl > best * sum_ll)
        chosen, scale = np.where(better, inverse, chosen), np.where(better, sum_xl / sum_ll, scale)
        best = np.where(better, scale * sum_xl, best)
    level = _limited(chosen * x_nG, -32, 31) + np.float32(32)
    zero, empty = np.float32(0), largest < _TINY
    return np.where(empty, zero, scale), np.where(empty, zero, level)


def _groups(weights: np.ndarray, size: int) -> np.ndarray:
    """[blocks, 256] -> [size, groups of all blocks]"""
    return np.ascontiguousarray(weights.reshape(-1, size).T)


def _with_minimum(weights: np.ndarray, bits: int) -> np.ndarray:
    top, blocks = (1 << bits) - 1, len(weights)
    x = _groups(weights, 32)
    scale, minimum, level = _search_with_minimum(x, top, *((-1.0, 20) if bits == 4 else (-0.5, 15)))
    (d, scales), (dmin, minima) = (_six_bits(each.reshape(blocks, 8)) for each in (scale, minimum))
    stored, below = ((half.view(np.float16).astype(np.float32) * six).reshape(-1) for half, six in ((d, scales), (dmin, minima)))
    level = np.where(stored == 0, level, _limited((x + below) / stored, 0, top))
    levels = level.T.astype(np.uint8).reshape(blocks, 4, 2, 32)
    low = levels & 15
    parts = [d, dmin, _twelve_bytes(scales, minima), (low[:, :, 0] | low[:, :, 1] << 4).reshape(blocks, 128)]
    if bits == 5:
        high = (levels >> 4).reshape(blocks, 8, 32) << np.arange(8, dtype=np.uint8)[:, None]
        parts.insert(3, np.bitwise_or.reduce(high, axis=1))
    return np.concatenate([part.view(np.uint8).reshape(blocks, -1) for part in parts], axis=1)


def _six_bits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A block's common factor, float16 [blocks, 1], and the 6 bits by which it is multiplied for each group, [blocks, 8]."""
    largest = np.maximum(values.max(axis=1, keepdims=True), np.float32(0))
    inverse = np.where(largest > 0, _FACTORS / largest, np.float32(0))
    six = np.minimum(_nearest(inverse * values).astype(np.uint8), np.uint8(63))
    return (largest / _FACTORS).astype(np.float16), six


def _twelve_bytes(scales: np.ndarray, minima: np.ndarray) -> np.ndarray:
    """12 bytes: those of the first four groups, with two bits of the last four's each; then four bits of the last four's both."""
    first, last = slice(0, 4), slice(4, 8)
    return np.concatenate(
        [
            scales[:, first] | (scales[:, last] >> 4 << 6),
            minima[:, first] | (minima[:, last] >> 4 << 6),
            (scales[:, last] & 15) | ((minima[:, last] & 15) << 4),
        ],
        axis=1,
    )


def _symmetric(weights: np.ndarray) -> np.ndarray:
    blocks, x = len(weights), _groups(weights, 16)
    scale, level = _search_symmetric(x)
    scales = scale.reshape(blocks, 16)
    widest = np.take_along_axis(scales, np.abs(scales).argmax(axis=1)[:, None], axis=1)
    inverse = np.float32(-128) / widest
    d = (np.float32(1) / inverse).astype(np.float16)
    factors = np.minimum(_nearest(inverse * scales), 127).astype(np.int8)
    stored = (d.astype(np.float32) * factors).reshape(-1)
    level = np.where(stored == 0, level, _limited(x / stored, -32, 31) + np.float32(32))
    quarters = level.T.astype(np.uint8).reshape(blocks, 2, 4, 32)
    low, high = quarters & 15, quarters >> 4 << (np.arange(4, dtype=np.uint8) * 2)[:, None]
    parts = [low[:, :, :2] | low[:, :, 2:] << 4, np.bitwise_or.reduce(high, axis=2), factors, d]
    found = np.concatenate([np.ascontiguousarray(part).reshape(blocks, -1).view(np.uint8) for part in parts], axis=1)
    found[np.abs(widest[:, 0]) < _TINY] = 0
    return found
