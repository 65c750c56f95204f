"""What every format's weight is in the end: codes, of which groups along the inputs have a scale and a zero point."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from moe_lm.checkpoint.quantized.packing import Packed

VALUES = 1 << 18  # expanded at a time: they stay in the CPU's cache
STEP = 32  # rows are asked for in multiples of it, since formats pack up to so many outputs into a word


@dataclass(frozen=True, eq=False)
class Affine:
    """The weights [O, K] = (code - zero point) * scale, computed in float32.

    O outputs, K inputs, G groups of `group_size` inputs, the last of which may be shorter. The product of a code of up to 8 bits and a
    16-bit scale is exact in float32.
    """

    codes: Callable[[int, int], Tensor]  # of the outputs in [begin, end): [n, K], integers or float8
    scales: Tensor  # float32 [O, G]
    zeros: Tensor | None  # float32 [O, G]; None: they are all 0
    inputs: int
    group_size: int
    bits: int  # of a code from 0 to 2^bits - 1; 8: or with a sign; 0: it is a float8
    order: Tensor | None = None  # the group of each input, int64 [K], where they do not follow one another

    def chunks(self) -> Iterator[Tensor]:
        """The weights in float32, some rows at a time."""
        return (self._rows(begin, end) for begin, end in self.spans())

    def spans(self) -> Iterator[tuple[int, int]]:
        """The outputs [begin, end) that are read at a time."""
        outputs = len(self.scales)
        step = max(STEP, VALUES // self.inputs // STEP * STEP)
        return ((begin, min(outputs, begin + step)) for begin in range(0, outputs, step))

    def codes_by_group(self, begin: int, end: int) -> Tensor:
        """`codes`, those of a group after one another."""
        codes_nK = self.codes(begin, end)
        return codes_nK if self.order is None else codes_nK[:, self.columns]

    def pairs(self) -> Tensor:
        """Codes of up to 4 bits, those of a group after one another: uint8 [O, K / 2], the first of two in the lower half of a byte."""
        if isinstance(self.codes, Packed) and self.codes.bits == 4 and self.order is None:
            return self.codes.octets()[:, : self.inputs // 2]
        pairs = torch.empty(len(self.scales), self.inputs // 2, dtype=torch.uint8)
        for begin, end in self.spans():
            first, second = self.codes_by_group(begin, end).unflatten(1, (-1, 2)).unbind(2)
            torch.bitwise_or(first, second << 4, out=pairs[begin:end])
        return pairs

    def _rows(self, begin: int, end: int) -> Tensor:
        weights_nK = self.codes(begin, end).to(torch.float32)
        in_turn = self.order is None and self.inputs % self.group_size == 0
        grouped = weights_nK.unflatten(1, (-1, self.group_size)) if in_turn else weights_nK

        def spread(values_OG: Tensor) -> Tensor:
            return values_OG[begin:end, :, None] if in_turn else values_OG[begin:end, self.groups]

        if self.zeros is not None:
            grouped -= spread(self.zeros)
        grouped *= spread(self.scales)
        return weights_nK

    @cached_property
    def columns(self) -> Tensor:
        """The inputs, int64 [K], those of a group after one another and the groups in order."""
        return self.groups.argsort(stable=True)

    @cached_property
    def groups(self) -> Tensor:
        """The group of each input, int64 [K]."""
        return torch.arange(self.inputs) // self.group_size if self.order is None else self.order


def ordered(groups_K: Tensor, group_size: int) -> Tensor | None:
    """An activation order for `Affine`: None where the groups follow one another. Raises ValueError unless every group has its inputs."""
    groups_K = groups_K.to(torch.int64)
    in_turn = torch.arange(len(groups_K)) // group_size
    if torch.equal(groups_K, in_turn):
        return None
    if not torch.equal(groups_K.sort().values, in_turn):
        raise ValueError(f"does not give each of {int(in_turn[-1]) + 1:,} groups {group_size:,} inputs")
    return groups_K
