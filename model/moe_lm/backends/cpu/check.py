"""Checks of a launcher's arguments before C++ reads or writes memory."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check(name: str, x: Tensor, shape: Sequence[int | None], *dtypes: torch.dtype, contiguous: bool = True) -> None:
    """Raise ValueError unless `x` is on the CPU, contiguous, of this shape (None: any size) and of one of these dtypes."""
    # a decode step makes hundreds of these checks: no generators, no device objects
    found = x.shape
    if x.dtype in dtypes and x.is_cpu and len(found) == len(shape) and (not contiguous or x.is_contiguous()):
        for wanted, size in zip(shape, found, strict=True):
            if wanted is not None and wanted != size:
                break
        else:
            return
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    kinds = " or ".join(map(_short, dtypes))
    given = f"{_short(x.dtype)} {list(x.shape)} on {x.device}" + ("" if x.is_contiguous() else f", with strides {x.stride()}")
    raise ValueError(f"{name} is {given}; wanted: {kinds} [{sizes}] on cpu" + (", contiguous" if contiguous else ""))


def check_range(name: str, value: int, low: int, high: int) -> None:
    """Raise ValueError unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; wanted: {low} to {high}")


def check_indices(name: str, ids: Tensor, count: int) -> None:
    """Raise ValueError unless every id is one of 0 .. count - 1."""
    if ids.numel():
        low, high = ids.aminmax()
        check_range(f"the lowest of {name}", int(low), 0, count - 1)
        check_range(f"the highest of {name}", int(high), 0, count - 1)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
