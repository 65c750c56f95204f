"""The same numbers as products read them without expanding them: groups of 4-bit codes, or GGUF's blocks of 8 bits."""

import math

import torch

from moe_lm.checkpoint.quantized.affine import Affine
from moe_lm.quant.grouped import GroupedWeight
from moe_lm.quant.ordered import OrderedWeight
from moe_lm.quant.weight import Blocks, Quantized, QuantizedWeight

WEIGHTS = 32  # of a block of Q8_0, which begins with its scale in float16; groups are multiples of it


def nbytes(weight: Affine) -> int | None:
    """Bytes of the weight `in_blocks`; None where these do not hold the very same numbers."""
    if size := _group_size(weight):
        of_a_row = GroupedWeight.row_bytes(weight.inputs, size)
    elif _fits_q8_0(weight):
        of_a_row = QuantizedWeight.row_bytes("Q8_0", weight.inputs)
    else:
        return None
    return of_a_row * len(weight.scales) + (0 if weight.order is None else 4 * weight.inputs)


def in_blocks(weight: Affine) -> Quantized | None:
    """The weight as one matrix; None for groups that are no multiple of 32, float8, and 8 bits that are not Q8_0's."""
    if size := _group_size(weight):
        blocks: Blocks = _grouped(weight, size)
    elif _fits_q8_0(weight):
        blocks = _q8_0(weight)
    else:
        return None
    return blocks if weight.order is None else OrderedWeight(blocks, weight.columns.argsort().to(torch.int32)[None])


def _group_size(weight: Affine) -> int:
    """Inputs of a group of 4-bit codes; 0: they do not fit. Where a weight's last group is shorter, it is several groups of that length."""
    size = math.gcd(weight.inputs, weight.group_size)
    if weight.zeros is None or not 0 < weight.bits <= 4 or size % WEIGHTS:
        return 0
    lowest, highest = weight.zeros.aminmax()
    return size if lowest >= 0 and highest <= 255 else 0


def _grouped(weight: Affine, size: int) -> GroupedWeight:
    assert weight.zeros is not None
    groups = torch.arange(0, weight.inputs, size) // weight.group_size
    scales, zeros = weight.scales[None, :, groups], weight.zeros[None, :, groups].to(torch.uint8)
    return GroupedWeight(weight.pairs()[None], scales, zeros, weight.inputs, size)


def _fits_q8_0(weight: Affine) -> bool:
    """Are the weights integers of 8 bits with a sign, or without one and the zero point in the middle, times scales of float16?"""
    whole = weight.inputs % WEIGHTS == 0 and weight.group_size % WEIGHTS == 0
    if weight.bits != 8 or not whole or weight.codes(0, 1).dtype != (torch.int8 if weight.zeros is None else torch.uint8):
        return False
    in_the_middle = weight.zeros is None or bool((weight.zeros == 128).all())
    return in_the_middle and torch.equal(weight.scales.to(torch.float16).to(torch.float32), weight.scales)


def _q8_0(weight: Affine) -> QuantizedWeight:
    outputs, count = len(weight.scales), weight.inputs // WEIGHTS
    blocks = torch.empty(outputs, count, 2 + WEIGHTS, dtype=torch.uint8)
    groups = torch.arange(0, weight.inputs, WEIGHTS) // weight.group_size
    blocks[..., :2] = weight.scales.to(torch.float16)[:, groups].unsqueeze(-1).view(torch.uint8)
    for begin, end in weight.spans():
        codes = weight.codes_by_group(begin, end)
        signed = codes.view(torch.uint8) if weight.zeros is None else codes ^ 128  # less 128, in eight bits with a sign
        blocks[begin:end, :, 2:] = signed.unflatten(1, (-1, WEIGHTS))
    return QuantizedWeight("Q8_0", blocks.view(1, outputs, -1), weight.inputs)
