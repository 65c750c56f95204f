"""A quantised weight: the file's own blocks, which products read as they are.

E matrices (the experts of a layer, or one), O outputs, K inputs.
"""

from dataclasses import dataclass

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

KINDS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")  # the GGUF types that products read


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """E matrices [O, K] of one GGUF type: uint8 [E, O, K / weights of a block * bytes of a block], block after block along K.

    The memory may be the mapped file. Raises ValueError for an unknown kind, or rows that are no whole blocks of K weights.
    """

    kind: str
    blocks: Tensor
    inputs: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; wanted: {', '.join(KINDS)}")
        weights, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[self.kind]]
        if self.inputs % weights or self.blocks.dtype != torch.uint8 or self.blocks.shape[2:] != (self.inputs // weights * nbytes,):
            raise ValueError(f"{self.inputs} inputs of {self.kind} are blocks of {nbytes} bytes for {weights}; got {self.blocks.shape}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(E, O, K)"""
        return *self.blocks.shape[:2], self.inputs

    def dequantized(self) -> Tensor:
        """The weights that the blocks stand for, float32 [E, O, K], as the gguf library defines them."""
        return torch.from_numpy(dequantize(self.blocks.numpy(), GGMLQuantizationType[self.kind]))
