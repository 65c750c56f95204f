"""Codes of a few bits that lie one after another in 32-bit words, the first in the lowest bits."""

import torch
from torch import Tensor


def unpacked(words: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of each row of int32 words [.., W], as uint8 [.., count]; `bits` is 2, 3, 4 or 8.

    Codes of 3 bits may begin in one word and end in the next.
    """
    octets = words.contiguous().view(torch.uint8)  # a word's bytes stand lowest first, in safetensors files and in memory
    if bits == 8:
        return octets[..., :count]
    if bits == 3:
        first, second, third = octets.to(torch.int32).unflatten(-1, (-1, 3)).unbind(-1)
        codes = ((first | second << 8 | third << 16).unsqueeze(-1) >> torch.arange(0, 24, 3)).bitwise_and_(7).to(torch.uint8)
    else:
        codes = torch.stack([octets >> shift for shift in range(0, 8, bits)], dim=-1).bitwise_and_((1 << bits) - 1)
    return codes.flatten(-2)[..., :count]
