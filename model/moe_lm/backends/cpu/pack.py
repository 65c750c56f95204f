"""Weights in the layout that the CPU kernels read: panels of outputs, so that a vector register holds outputs side by side."""

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
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
        E, outputs, K = weights_EOK.shape
        panels = in_large_pages((E, -(-outputs // PANEL), K, PANEL), weights_EOK.dtype)
        _fill_panels(panels, weights_EOK)
        return cls(kept(panels), outputs, bias=bias)

    @classmethod
    def gated(cls, gate_EOK: Tensor, up_EOK: Tensor, activation: str) -> "PackedMatrix":
        """For act(x @ gate.T) * (x @ up.T)."""
        E, outputs, K = gate_EOK.shape
        both = in_large_pages((E, -(-outputs // HALF), K, PANEL), gate_EOK.dtype)
        _fill_panels(both[..., :HALF], gate_EOK)
        _fill_panels(both[..., HALF:], up_EOK)
        return cls(kept(both), outputs, activation)

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


def _fill_panels(panels: Tensor, weights_EOK: Tensor) -> None:
    """Write [E, O, K] to panels of zeros, [E, panels, K, width], whose last one may have room for more outputs."""
    width, outputs = panels.shape[-1], weights_EOK.shape[1]
    whole = outputs // width
    panels[:, :whole] = weights_EOK[:, : whole * width].detach().unflatten(1, (whole, width)).transpose(2, 3)
    if outputs % width:
        panels[:, whole, :, : outputs % width] = weights_EOK[:, whole * width :].detach().transpose(1, 2)


def in_large_pages(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory in pages of 2 MB instead of 4 KB, where the kernel has them: every step reads all weights, and misses the TLB less."""
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(*shape)
