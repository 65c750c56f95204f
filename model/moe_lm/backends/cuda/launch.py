"""What every launcher needs: the device's properties, and products that the interpreter too gets right."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
INTERPRETED_PROGRAMS = 3  # a persistent grid on a CPU: few programs, so that tests see one take several tiles


@triton.jit
def dot(a_MK, b_KN, acc_MN):
    """acc + a @ b, float32 sums; float32 inputs are not rounded to TF32."""
    if INTERPRETED:
        # the interpreter would multiply bf16 as the integers that hold it
        a_MK, b_KN = a_MK.to(tl.float32), b_KN.to(tl.float32)
    return tl.dot(a_MK, b_KN, acc_MN, input_precision="ieee")


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """x, float32, in another precision: to nearest, ties to even."""
    if INTERPRETED and dtype == tl.bfloat16:  # the interpreter would cut the lower bits off
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    return x.to(dtype)


def num_programs(device: torch.device, per_multiprocessor: int) -> int:
    """Size of a persistent grid: it depends on the device alone, so that a CUDA graph can hold it."""
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return torch.cuda.get_device_properties(device).multi_processor_count * per_multiprocessor


def by_descriptor(x: Tensor) -> bool:
    """Are tiles of `x` best loaded by tensor descriptor (TMA, from compute capability 9.0 on)?

    Not float32's: its products, without tensor cores, want them in registers, where they would spill.
    """
    if x.element_size() != 2:
        return False
    if x.device.type != "cuda":
        return bool(triton.knobs.runtime.interpret)
    return torch.cuda.get_device_capability(x.device) >= (9, 0)


def describe(x: Tensor, block: list[int], wanted: bool) -> Any:
    """A tensor descriptor of `x` in boxes of `block`, or `x` itself where none is wanted or its rows are not 16-byte aligned."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    aligned = x.data_ptr() % 16 == 0 and all(stride * x.element_size() % 16 == 0 for stride in x.stride()[:-1])
    return TensorDescriptor.from_tensor(x, block) if wanted and aligned else x
