"""Back-ends compute a decoder's forward pass. `choose` names the one for a device and a precision, `build` makes it.

`reference` is plain torch, on any device; `cpu` the compiled kernels; `triton` a GPU's.
"""

import os
from importlib.util import find_spec

import torch

from moe_lm.backends.base import Backend
from moe_lm.backends.reference import ReferenceBackend
from moe_lm.errors import ModelError
from moe_lm.model import Decoder

KERNELS = ("reference", "cpu", "triton")
CPU_DTYPES = (torch.float32, torch.bfloat16)


def choose(kernel: str, device: str, dtype: torch.dtype = torch.float32) -> str:
    """The back-end's name: `kernel` itself, or for "auto" the best one that runs on `device` ("cpu" or "cuda") in this precision.

    Raises ModelError if a requested back-end cannot run. On a CPU "auto" is "reference" if the compiled kernels are missing
    or do not support the precision; `why_not_cpu` says which.
    """
    if kernel == "auto":
        kernel = "triton" if device != "cpu" else "reference" if why_not_cpu(dtype) else "cpu"
    if kernel not in KERNELS:
        raise ModelError(f"unknown kernel {kernel!r}; there are auto, {', '.join(KERNELS)}")
    if kernel == "cpu":
        if device != "cpu":
            raise ModelError(f"--kernel cpu runs on a CPU, and the device is {device}; use --kernel triton or reference")
        if reason := why_not_cpu(dtype):
            raise ModelError(f"--kernel cpu: {reason}; or use --kernel reference")
    if kernel == "triton":
        if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            raise ModelError("--kernel triton needs a GPU, and the device is cpu; use --kernel cpu, or set TRITON_INTERPRET=1 (slow)")
        if not find_spec("triton"):
            raise ModelError("--kernel triton needs the package triton; run `pip install triton`, or use --kernel reference")
    return kernel


def why_not_cpu(dtype: torch.dtype) -> str:
    """Why the compiled kernels cannot compute in this precision here, and what to do about it; "" if they can."""
    from moe_lm.backends.cpu.library import reason_missing

    if dtype not in CPU_DTYPES:
        return f"the compiled kernels take float32 and bfloat16, and the dtype is {str(dtype).removeprefix('torch.')}"
    return reason_missing() or ""


def backend_class(kernel: str) -> type[Backend]:
    """The back-end of this name."""
    if kernel == "cpu":
        from moe_lm.backends.cpu.backend import CpuBackend

        return CpuBackend
    if kernel == "triton":
        from moe_lm.backends.cuda.backend import TritonBackend

        return TritonBackend
    return ReferenceBackend


def build(model: Decoder, kernel: str, int8: bool = False) -> Backend:
    """The back-end that `choose` named. It takes ownership of the model: `cpu` and `triton` remove or replace its weights.

    `int8`, for `cpu` alone: products with quantised weights are computed in 8-bit integers.
    """
    settings = {"int8": True} if int8 else {}
    return backend_class(kernel)(model, **settings)  # type: ignore[arg-type]  # every back-end is made of a model
