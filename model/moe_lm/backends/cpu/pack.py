"""Weights in the layout that the CPU kernels read: panels of outputs, so that a vector register holds outputs side by side."""

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_lm.backends.cpu.check import check, check_indices
from moe_lm.backends.cpu.shared import kept

PANEL = 48  # outputs of a panel, as in csrc/
HALF = PANEL // 2
ACTIVATIONS = {"none": 0, "silu": 1, "gelu_tanh": 2}  # as in csrc/
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, slots=True, eq=False)
class PackedMatrix:
    """E matrices [O, K] as panels of `PANEL` outputs, [E, panels, K, PANEL], float32 or bfloat16; `launch.gemm` multiplies with them.

    With an activation, half of each panel is the gate's outputs and half the up projection's.
    """

    weights: Tensor
    outputs: int
    activation: str = "none"
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what `gemm` could not read."""
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; wanted: {', '.join(ACTIVATIONS)}")
        panels = -(-self.outputs // (PANEL if self.activation == "none" else HALF))
        check("weights", self.weights, (None, panels, None, PANEL), *DTYPES)
        if self.bias is not None:
            check("bias", self.bias, (self.outputs,), torch.float32)

    @classmethod
    def of(cls, weights_EOK: Tensor, bias_O: Tensor | None = None) -> "PackedMatrix":
        bias = None if bias_O is None else bias_O.detach().float().contiguous()
        panels = _panels(weights_EOK, PANEL)
        return cls(kept(in_large_pages(panels.shape, panels.dtype).copy_(panels)), weights_EOK.shape[1], bias=bias)

    @classmethod
    def gated(cls, gate_EOK: Tensor, up_EOK: Tensor, activation: str) -> "PackedMatrix":
        """For act(x @ gate.T) * (x @ up.T)."""
        gate, up = _panels(gate_EOK, HALF), _panels(up_EOK, HALF)
        both = in_large_pages((*gate.shape[:-1], PANEL), gate.dtype)
        return cls(kept(torch.cat((gate, up), dim=-1, out=both)), gate_EOK.shape[1], activation)

    @property
    def inputs(self) -> int:
        return self.weights.shape[2]

    @property
    def matrices(self) -> int:
        return self.weights.shape[0]

    def of_experts(self, first: int, last: int) -> "PackedMatrix":
        """The matrices first .. last - 1; no copy."""
        return replace(self, weights=self.weights[first:last])

    def rows(self, ids_T: Tensor) -> Tensor:
        """Rows of the first matrix, [T, K]: an embedding that is also the output head is kept once."""
        check_indices("ids", ids_T, self.outputs)
        return self.weights[0, ids_T // PANEL, :, ids_T % PANEL].contiguous()


def _panels(weights_EOK: Tensor, width: int) -> Tensor:
    E, outputs, K = weights_EOK.shape
    return F.pad(weights_EOK.detach(), (0, 0, 0, -outputs % width)).view(E, -1, width, K).transpose(2, 3)


def in_large_pages(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory in pages of 2 MB instead of 4 KB, where the kernel has them: every step reads all weights, and misses the TLB less."""
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(*shape)
