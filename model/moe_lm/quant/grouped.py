"""A weight quantised in groups, as GPTQ and AWQ store it: 4-bit codes, and for each group of inputs a scale and a zero point.

E matrices (the experts of a layer, or one), O outputs, K inputs, G groups of `group_size` inputs, which follow one another.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class GroupedWeight:
    """(code - zero point) * scale, in float32.

    codes uint8 [E, O, K / 2], the code of the first of two inputs in the lower half of a byte (a row of GPTQ's qweight.t(), seen as
    bytes); scales float32 and zeros uint8 [E, O, G]. Raises ValueError unless they fit, K is whole groups, and a group a multiple of 32.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    inputs: int
    group_size: int

    def __post_init__(self) -> None:
        if self.group_size <= 0 or self.group_size % 32 or self.inputs % self.group_size:
            raise ValueError(f"{self.inputs} inputs in groups of {self.group_size}; wanted: whole groups, each a multiple of 32")
        E, outputs = self.codes.shape[:2]
        groups = self.inputs // self.group_size
        for name, dtype, last in (
            ("codes", torch.uint8, self.inputs // 2),
            ("scales", torch.float32, groups),
            ("zeros", torch.uint8, groups),
        ):
            found: Tensor = getattr(self, name)
            if found.dtype != dtype or found.shape != (E, outputs, last):
                kind, wanted = (str(each).removeprefix("torch.") for each in (found.dtype, dtype))
                raise ValueError(f"{name} are {kind} {list(found.shape)}; wanted: {wanted} [{E}, {outputs}, {last}]")

    @staticmethod
    def row_bytes(inputs: int, group_size: int) -> int:
        """Bytes of one output."""
        return inputs // 2 + inputs // group_size * 5

    @property
    def shape(self) -> tuple[int, int, int]:
        """(E, O, K)"""
        return *self.codes.shape[:2], self.inputs

    @property
    def is_finite(self) -> bool:
        """Are all weights numbers?"""
        return bool((self.scales * 255).isfinite().all()) or bool(self.dequantized().isfinite().all())

    def dequantized(self) -> Tensor:
        """The weights, float32 [E, O, K]; the product of a code and a 16-bit scale is exact."""
        codes = torch.stack((self.codes & 15, self.codes >> 4), dim=-1).flatten(2).float().unflatten(2, (-1, self.group_size))
        return ((codes - self.zeros.float()[..., None]) * self.scales[..., None]).flatten(2)
