"""Scales that are stored as compressed-tensors and FP8 folders have them: one for a weight, for each output, or for each block."""

import torch
from torch import Tensor

from moe_lm.checkpoint.quantized.module import FLOATS, Module

POWERS = ("F8_E8M0",)  # powers of two

Block = tuple[int, int] | None  # of so many outputs and inputs; None: of one output, or of all


def check_scales(module: Module, part: str, shape: tuple[int, int], block: Block) -> None:
    """Raises ModelError unless a weight [O, K] has scales [ceil(O/rows), ceil(K/columns)], or, without blocks, [O, 1] or one."""
    (outputs, inputs), header = shape, module.header(part)
    if block is None and header.shape in ((), (1,), (1, 1), (outputs,)):
        module.dims(part, FLOATS + POWERS, len(header.shape))
        return
    rows, columns = block or (1, inputs)
    why = f"its weight {shape} and " + (f"blocks of {rows} x {columns}" if block else "one for an output")
    module.expect(part, FLOATS + POWERS, (-(-outputs // rows), -(-inputs // columns)), why)


def by_output(values: Tensor, outputs: int, block: Block) -> Tensor:
    """Scales that `check_scales` passes, or zero points like them, as float32 [O, G]."""
    values = values.to(torch.float32)
    if block is None:
        return values.reshape(-1, 1).expand(outputs, 1)
    return values.repeat_interleave(block[0], dim=0)[:outputs]
