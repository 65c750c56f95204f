"""Quantised weights in the layout that the CPU kernels read: the file's own blocks, those of 16 outputs side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from moe_lm.backends.cpu.check import check, check_indices
from moe_lm.backends.cpu.library import call
from moe_lm.backends.cpu.pack import ACTIVATIONS, in_large_pages
from moe_lm.backends.cpu.shared import kept
from moe_lm.quant.kinds import GROUPS, KINDS, group_kind
from moe_lm.quant.ordered import OrderedWeight
from moe_lm.quant.weight import Blocks, Quantized, QuantizedWeight, are_ordered_alike, places_of

STRIPE = 16  # outputs of a packed block, LANES in csrc/
PACKED_KINDS = (*KINDS, *GROUPS)  # as in csrc/blocks.h


def row_bytes(kind: str, inputs: int) -> int:
    """Bytes of one output in packed blocks. Raises ValueError for an unknown kind, or inputs that are no whole blocks."""
    if kind not in GROUPS:
        return QuantizedWeight.row_bytes(kind, inputs)
    blocks, rest = divmod(inputs, GROUPS[kind])
    if rest:
        raise ValueError(f"{kind} has blocks of {GROUPS[kind]} weights, of which {inputs} inputs are no multiple")
    return blocks * (GROUPS[kind] // 2 + 5)  # a float32 scale and a byte of a zero point


@dataclass(frozen=True, slots=True, eq=False)
class Stripes:
    """E matrices [O, K] of one kind: uint8 [E, stripes of 16 outputs, bytes], block after block along K (csrc/blocks.h)."""

    kind: str
    packed: Tensor
    outputs: int

    @classmethod
    def of(cls, weight: Blocks) -> "Stripes":
        """Raises ValueError for tensors that are not contiguous on the CPU."""
        E, outputs, inputs = weight.shape
        if isinstance(weight, QuantizedWeight):
            check("blocks", weight.blocks, (E, outputs, None), torch.uint8)
            found = cls._empty(weight.kind, E, outputs, inputs)
            call("pack_blocks", weight.blocks, E, outputs, inputs, PACKED_KINDS.index(weight.kind), found.packed)
        else:
            for name, dtype in (("codes", torch.uint8), ("scales", torch.float32), ("zeros", torch.uint8)):
                check(name, getattr(weight, name), (E, outputs, None), dtype)
            kind = group_kind(weight.group_size)
            assert kind  # a GroupedWeight has groups that one divides
            found = cls._empty(kind, E, outputs, inputs)
            sizes = (E, outputs, inputs, weight.group_size)
            call("pack_groups", weight.codes, weight.scales, weight.zeros, *sizes, PACKED_KINDS.index(kind), found.packed)
        return replace(found, packed=kept(found.packed))

    @classmethod
    def _empty(cls, kind: str, matrices: int, outputs: int, inputs: int) -> "Stripes":
        shape = (matrices, -(-outputs // STRIPE), STRIPE * row_bytes(kind, inputs))
        return cls(kind, in_large_pages(shape, torch.uint8), outputs)


@dataclass(frozen=True, slots=True, eq=False)
class PackedBlocks:
    """E matrices [O, K] of quantised weights; `launch.gemm` multiplies with them, as with the float32 numbers that they stand for, or
    in 8-bit integers.

    The outputs of the parts, which may be of different kinds, lie side by side; with an activation there are two, gate and up.
    """

    parts: tuple[Stripes, ...]
    inputs: int
    activation: str = "none"
    bias: Tensor | None = None
    places: Tensor | None = None  # int32 [E, K], where the parts have each input; None: in order
    addresses: Tensor = field(init=False, repr=False)  # address, kind and outputs of each part, int64 [parts, 3], as C++ takes them

    def __post_init__(self) -> None:
        """Raises ValueError for what `gemm` could not read."""
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; wanted: {', '.join(ACTIVATIONS)}")
        for part in self.parts:
            shape = (len(self.parts[0].packed), -(-part.outputs // STRIPE), STRIPE * row_bytes(part.kind, self.inputs))
            check(f"packed {part.kind}", part.packed, shape, torch.uint8)
        if self.bias is not None:
            check("bias", self.bias, (self.outputs,), torch.float32)
        if self.places is not None:
            check("places", self.places, (self.matrices, self.inputs), torch.int32)
        table = [(part.packed.data_ptr(), PACKED_KINDS.index(part.kind), part.outputs) for part in self.parts]
        object.__setattr__(self, "addresses", torch.tensor(table))

    @classmethod
    def of(cls, weights: Quantized | Sequence[Quantized], bias_O: Tensor | None = None) -> "PackedBlocks":
        """Of one weight, or of several with the same inputs as one product. Raises ValueError where they do not fit each other."""
        several = [weights] if isinstance(weights, Quantized) else list(weights)
        if len({(each.shape[0], each.inputs) for each in several}) != 1:
            shapes = ", ".join(str(list(each.shape)) for each in several) or "none"
            raise ValueError(f"weights of one product have as many matrices and inputs; got {shapes}")
        bias = None if bias_O is None else bias_O.detach().float().contiguous()
        return cls(_parts(several), several[0].inputs, bias=bias, places=places_of(several[0]))

    @classmethod
    def gated(cls, gate: Quantized, up: Quantized, activation: str) -> "PackedBlocks":
        """For act(x @ gate.T) * (x @ up.T). Raises ValueError for two different shapes."""
        if gate.shape != up.shape:
            raise ValueError(f"gate is {list(gate.shape)} and up {list(up.shape)}; wanted: the same shape")
        return cls(_parts((gate, up)), gate.inputs, activation, places=places_of(gate))

    @property
    def outputs(self) -> int:
        return self.parts[0].outputs if self.activation != "none" else sum(part.outputs for part in self.parts)

    @property
    def matrices(self) -> int:
        return len(self.parts[0].packed)

    @property
    def nbytes(self) -> int:
        return sum(part.packed.nbytes for part in self.parts) + (0 if self.places is None else self.places.nbytes)

    def of_experts(self, first: int, last: int) -> "PackedBlocks":
        """The matrices first .. last - 1; no copy."""
        parts = tuple(replace(part, packed=part.packed[first:last]) for part in self.parts)
        return replace(self, parts=parts, places=None if self.places is None else self.places[first:last])

    def rows(self, ids_T: Tensor) -> Tensor:
        """Rows of the first matrix, float32 [T, K]: an embedding that is also the output head is kept once."""
        check("ids", ids_T, (None,), torch.int64, contiguous=False)
        check_indices("ids", ids_T, self.outputs)
        if len(self.parts) != 1:
            raise ValueError(f"rows are read from one weight; these are {len(self.parts)}")
        (part,), out = self.parts, torch.empty(len(ids_T), self.inputs)
        call("block_rows", part.packed, PACKED_KINDS.index(part.kind), self.inputs, ids_T.contiguous(), len(ids_T), out)
        return out if self.places is None else out[:, self.places[0]]


def _parts(weights: Sequence[Quantized]) -> tuple[Stripes, ...]:
    """Raises ValueError where they have their inputs in different orders."""
    if not are_ordered_alike(weights):
        raise ValueError("weights of one product have their inputs in one order; these differ")
    return tuple(Stripes.of(each.blocks if isinstance(each, OrderedWeight) else each) for each in weights)
