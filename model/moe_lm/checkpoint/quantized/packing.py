"""Codes of a few bits that lie one after another in 32-bit words, the first in the lowest bits."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A weight's codes of `bits` bits, packed along its inputs: O outputs, K `inputs`, int32 words [O, W]."""

    words: Tensor
    bits: int
    inputs: int

    def __call__(self, begin: int, end: int) -> Tensor:
        """Of the outputs in [begin, end): uint8 [n, K]."""
        return unpacked(self.words[begin:end], self.bits, self.inputs)

    def octets(self) -> Tensor:
        """The bytes of all words, uint8 [O, 4 W]: with 4 bits, the codes of two inputs in each, the first in its lower half."""
        return octets(self.words)


def unpacked(words: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of each row of int32 words [.., W], as uint8 [.., count]; `bits` is 2, 3, 4 or 8.

    Codes of 3 bits may begin in one word and end in the next.
    """
    some = octets(words)
    if bits == 8:
        return some[..., :count]
    if bits == 3:
        first, second, third = some.to(torch.int32).unflatten(-1, (-1, 3)).unbind(-1)
        codes = ((first | second << 8 | third << 16).unsqueeze(-1) >> torch.arange(0, 24, 3)).bitwise_and_(7).to(torch.uint8)
    else:
        codes = torch.stack([some >> shift for shift in range(0, 8, bits)], dim=-1).bitwise_and_((1 << bits) - 1)
    return codes.flatten(-2)[..., :count]


def octets(words: Tensor) -> Tensor:
    """The bytes of int32 words [.., W], uint8 [.., 4 W]. A word's stand lowest first, in safetensors files and in memory."""
    return words.contiguous().view(torch.uint8)
