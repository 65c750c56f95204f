"""A quantised weight: the file's own blocks, which products read as they are.

E matrices (the experts of a layer, or one), O outputs, K inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from moe_lm.quant.grouped import GroupedWeight
from moe_lm.quant.kinds import FLOATS, KINDS
from moe_lm.quant.ordered import OrderedWeight, in_order

INFINITE = 0x7C00  # the exponent bits, all set in infinity and NaN
CHECKED = 1 << 15  # blocks at a time, which take little memory


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """E matrices [O, K] of one GGUF type: uint8 [E, O, K / weights of a block * bytes of a block], block after block along K.

    The memory may be the mapped file. Raises ValueError for an unknown kind, or rows that are no whole blocks of K weights.
    """

    kind: str
    blocks: Tensor
    inputs: int

    def __post_init__(self) -> None:
        if self.blocks.dtype != torch.uint8 or self.blocks.shape[2:] != (self.row_bytes(self.kind, self.inputs),):
            found = f"{str(self.blocks.dtype).removeprefix('torch.')} {list(self.blocks.shape)}"
            wanted = f"uint8 [E, O, {self.row_bytes(self.kind, self.inputs)}]"
            raise ValueError(f"blocks of {self.kind} for {self.inputs} inputs are {found}; wanted: {wanted}")

    @staticmethod
    def row_bytes(kind: str, inputs: int) -> int:
        """Bytes of one output's blocks. Raises ValueError for an unknown kind, or inputs that are no whole blocks."""
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; wanted: {', '.join(KINDS)}")
        weights, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        if inputs % weights:
            raise ValueError(f"{kind} has blocks of {weights} weights, of which {inputs} inputs are no multiple")
        return inputs // weights * nbytes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(E, O, K)"""
        return *self.blocks.shape[:2], self.inputs

    @property
    def is_finite(self) -> bool:
        """Are all weights numbers? They are where the blocks' own float16 numbers are: what these are multiplied by is small."""
        _, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[self.kind]]
        halves = self.blocks.numpy().reshape(-1, nbytes).view(np.uint16)
        some = (halves[begin : begin + CHECKED] for begin in range(0, len(halves), CHECKED))
        return not any(((each[:, at // 2] & INFINITE) == INFINITE).any() for each in some for at in FLOATS[self.kind])

    def dequantized(self) -> Tensor:
        """The weights that the blocks stand for, float32 [E, O, K], as the gguf library defines them."""
        return torch.from_numpy(dequantize(self.blocks.numpy(), GGMLQuantizationType[self.kind]))


Blocks = QuantizedWeight | GroupedWeight
Quantized = Blocks | OrderedWeight


def stacked(weights: Sequence[Quantized]) -> Quantized | None:
    """The matrices of all as one weight; None where they differ in their kind or their groups."""
    several = _stacked([each.blocks if isinstance(each, OrderedWeight) else each for each in weights])
    if several is None or all(places_of(each) is None for each in weights):
        return several
    found = [in_order(each.shape[0], each.inputs) if (places := places_of(each)) is None else places for each in weights]
    return OrderedWeight(several, torch.cat(found))


def places_of(weight: Quantized) -> Tensor | None:
    """Where its blocks have each input; None: in order."""
    return weight.places if isinstance(weight, OrderedWeight) else None


def are_ordered_alike(weights: Sequence[Quantized]) -> bool:
    """Have all their inputs in one order, so that a product can take them together?"""
    first, *others = map(places_of, weights)
    return all(first is each if first is None or each is None else torch.equal(first, each) for each in others)


def _stacked(weights: Sequence[Blocks]) -> Blocks | None:
    first, names = weights[0], [field.name for field in fields(weights[0])]
    tensors = [name for name in names if isinstance(getattr(first, name), Tensor)]
    same = [name for name in names if name not in tensors]
    if any(type(each) is not type(first) or any(getattr(each, name) != getattr(first, name) for name in same) for each in weights):
        return None
    several: dict[str, Any] = {name: torch.cat([getattr(each, name) for each in weights]) for name in tensors if len(weights) > 1}
    return replace(first, **several)
