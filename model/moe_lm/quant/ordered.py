"""A weight that has its inputs in an order of its own, those of a group side by side, as GPTQ's activation order groups them.

E matrices (the experts of a layer, or one), O outputs, K inputs.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from moe_lm.quant.grouped import GroupedWeight
    from moe_lm.quant.weight import QuantizedWeight


@dataclass(frozen=True, slots=True, eq=False)
class OrderedWeight:
    """`blocks` have input k of matrix e at places[e, k], int32 [E, K]. Raises ValueError unless each matrix's inputs have a place each."""

    blocks: "QuantizedWeight | GroupedWeight"
    places: Tensor

    def __post_init__(self) -> None:
        E, _, inputs = self.blocks.shape
        if self.places.dtype != torch.int32 or self.places.shape != (E, inputs):
            found = f"{str(self.places.dtype).removeprefix('torch.')} {list(self.places.shape)}"
            raise ValueError(f"places are {found}; wanted: int32 {[E, inputs]}")
        if not torch.equal(self.places.sort(dim=1).values, in_order(E, inputs)):
            raise ValueError(f"places give two inputs of a matrix one place; wanted: each of 0 .. {inputs - 1} once")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(E, O, K)"""
        return self.blocks.shape

    @property
    def inputs(self) -> int:
        return self.blocks.inputs

    @property
    def is_finite(self) -> bool:
        """Are all weights numbers?"""
        return self.blocks.is_finite

    def dequantized(self) -> Tensor:
        """The weights, float32 [E, O, K], their inputs in order."""
        pairs = zip(self.blocks.dequantized(), self.places, strict=True)
        return torch.stack([weights_OK[:, places_K] for weights_OK, places_K in pairs])


def in_order(matrices: int, inputs: int) -> Tensor:
    """Places of inputs that are in order."""
    return torch.arange(inputs, dtype=torch.int32).expand(matrices, inputs)
