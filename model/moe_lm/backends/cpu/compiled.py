"""The CPU's kernels: `compiled.cpp`, built by the machine's C++ compiler at first use and kept, and the weights as it wants them.

Its products take any number of rows, and no row's bits depend on how many (see there). What `moe_lm.backends.tiles` arranges with torch's
own products, for machines without a compiler, costs padding and half of a decode step's time.

Floors: a product's weights from memory once, 4 or 2 bytes a number, and 2 FLOPs a row and weight; attention 8 d bytes a token,
key/value head and layer, once for all neighbours that share the token's page, and 4 d FLOPs a token and query head.
"""

import ctypes
import hashlib
import math
import mmap
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_lm.errors import ModelError

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-std=c++17", "-shared", "-fPIC")
PANEL, SPAN, PAGE = 48, 64, 128  # as in compiled.cpp
HALF = PANEL // 2
GROUP = 2048  # rows of the experts that are computed together, at least
ACTIVATIONS = {"none": 0, "silu": 1, "gelu_tanh": 2}


def compiler() -> str | None:
    """The C++ compiler to use, $CXX before all others; None where there is none."""
    return next((found for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++") if name and (found := shutil.which(name))), None)


@cache
def available() -> bool:
    """Can the kernels be built here? They need Linux, whose torch brings the threads that they share with it."""
    if platform.system() != "Linux" or compiler() is None:
        return False
    try:
        library()
    except ModelError:
        return False
    return True


@cache
def library() -> ctypes.CDLL:
    """The kernels, built if no earlier process has. Raises ModelError with the compiler's first complaint."""
    found = compiler()
    if found is None:
        raise ModelError("--kernel cpu needs a C++ compiler (c++, g++ or clang++), and none is in PATH; install one, or use --kernel torch")
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    key = hashlib.sha256("\0".join((SOURCE.read_text(), *FLAGS, version, platform.machine(), cpu)).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evalkit" / "kernels"
    target = folder / f"{key}.so"
    try:
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _build(found, target)
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise ModelError(f"--kernel cpu: {target} can't be written or opened ({error}); use --kernel torch") from error


def _build(found: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as room:  # another process may be building the same
        built = Path(room) / target.name
        done = subprocess.run([found, *FLAGS, str(SOURCE), "-o", str(built)], capture_output=True, text=True, check=False)
        if done.returncode:
            complaint = next((line for line in done.stderr.splitlines() if "error" in line), f"exit status {done.returncode}")
            raise ModelError(f"--kernel cpu: {found} can't build {SOURCE.name}: {complaint}; use --kernel torch")
        built.replace(target)


@cache
def _start() -> ctypes.c_void_p:
    """GOMP_parallel in the OpenMP that torch has loaded: a second set of threads would fight with its own for the cores."""
    return ctypes.cast(ctypes.CDLL("libgomp.so.1").GOMP_parallel, ctypes.c_void_p)


def _call(name: str, *arguments: Tensor | float | None) -> None:
    getattr(library(), name)(_start(), torch.get_num_threads(), *map(_as_c, arguments))


def _as_c(value: Tensor | float | None) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_float(value) if isinstance(value, float) else value


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Matrices [E, O, K], panel after panel of `PANEL` outputs: [E, panels, K, PANEL]. Float32 or bfloat16."""

    weights: Tensor
    outputs: int
    activation: str = "none"
    bias: Tensor | None = None

    @classmethod
    def of(cls, weights_EOK: Tensor, bias_O: Tensor | None = None) -> "Packed":
        bias = None if bias_O is None else bias_O.detach().float().contiguous()
        panels = _panels(weights_EOK, PANEL)
        return cls(_in_large_pages(panels.shape, panels.dtype).copy_(panels), weights_EOK.shape[1], bias=bias)

    @classmethod
    def gated(cls, gate_EOK: Tensor, up_EOK: Tensor, activation: str) -> "Packed":
        """For act(x @ gate.T) * (x @ up.T): half of a panel from each."""
        gate, up = _panels(gate_EOK, HALF), _panels(up_EOK, HALF)
        both = _in_large_pages((*gate.shape[:-1], PANEL), gate.dtype)
        return cls(torch.cat((gate, up), dim=-1, out=both), gate_EOK.shape[1], activation)

    def __call__(
        self,
        x_MK: Tensor,
        offsets: Tensor | None = None,
        order_R: Tensor | None = None,
        into: Tensor | None = None,
        add: bool = False,
        factors_M: Tensor | None = None,
    ) -> Tensor:
        """[M, K] -> [M, O] in x's precision; rows offsets[e]..offsets[e+1] by matrix e. With an order, of x[order]: [R, O].

        Written into float32 `into`, where there is one, or added to it, each row times its factor where there are any.
        """
        x = x_MK.float().contiguous()
        shape = (len(x) if order_R is None else len(order_R), self.outputs)
        out = x.new_empty(shape) if into is None else into
        assert out.shape == shape
        assert out.dtype == torch.float32
        assert out.is_contiguous()
        assert add or factors_M is None
        offsets = torch.tensor((0, len(out))) if offsets is None else offsets
        (E, _, K, _), bfloat16, activation = self.weights.shape, self.weights.dtype == torch.bfloat16, ACTIVATIONS[self.activation]
        factors = None if factors_M is None else factors_M.float().contiguous()
        _call("products", x, order_R, offsets, E, self.weights, bfloat16, K, self.outputs, activation, self.bias, add, factors, out)
        return out.to(x_MK.dtype)

    def of_experts(self, first: int, last: int) -> "Packed":
        return replace(self, weights=self.weights[first:last])

    def rows(self, ids_T: Tensor) -> Tensor:
        """Of the first matrix, [T, K]: an embedding that is also the output head is kept once."""
        return self.weights[0, ids_T // PANEL, :, ids_T % PANEL].contiguous()


def _panels(weights_EOK: Tensor, width: int) -> Tensor:
    E, outputs, K = weights_EOK.shape
    return F.pad(weights_EOK.detach(), (0, 0, 0, -outputs % width)).view(E, -1, width, K).transpose(2, 3)


def _in_large_pages(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory for what every step reads whole: with pages of 2 MB instead of 4 KB the processor has fewer addresses to look up."""
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(*shape)


def routed_experts(x_TD: Tensor, topk_weights_TK: Tensor, topk_ids_TK: Tensor, gate_up: Packed, down: Packed) -> Tensor:
    """Routed experts over packed weights (see `moe_lm.backends.experts`). [T, D] -> [T, D]; experts are added in ascending order."""
    (T, K), E = topk_ids_TK.shape, len(down.weights)
    ids_TK, choice_TK = topk_ids_TK.sort(dim=1)
    order_R = torch.argsort(ids_TK.flatten(), stable=True)  # R = T * K, one row for each (token, expert) pair
    offsets = F.pad(torch.bincount(ids_TK.flatten(), minlength=E).cumsum(0), (1, 0))
    rows_TK = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(T * K)).view(T, K)
    weights_TK = topk_weights_TK.gather(1, choice_TK).float().contiguous()
    out_TD = x_TD.new_empty(T, down.outputs, dtype=torch.float32)
    x, order_R = x_TD.float(), order_R // K
    groups = list(_groups(offsets.tolist()))
    most = max(end - begin for _, _, begin, end in groups)
    hidden_RF, y_RD = (out_TD.new_empty(most, packed.outputs) for packed in (gate_up, down))  # the same memory for all
    for first, last, begin, end in groups:
        some, R = offsets[first : last + 1] - begin, end - begin
        gate_up.of_experts(first, last)(x, some, order_R[begin:end], hidden_RF[:R])
        down.of_experts(first, last)(hidden_RF[:R], some, into=y_RD[:R])
        _call("combine", y_RD, rows_TK, weights_TK, T, K, down.outputs, begin, end, out_TD)
    return out_TD.to(x_TD.dtype)


def _groups(offsets: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """Experts first..last and their rows begin..end, some thousand rows at a time: the memory between the products is used again."""
    first = 0
    for last in range(1, len(offsets)):
        if offsets[last] - offsets[first] >= GROUP or last == len(offsets) - 1:
            yield first, last, offsets[first], offsets[last]
            first = last


def normalise(x_TD: Tensor, weight_D: Tensor, eps: float, offset: float) -> Tensor:
    """RMS norm of float32 rows: x / sqrt(mean(x^2) + eps) * (offset + weight)."""
    x = x_TD.contiguous()
    out = torch.empty_like(x)
    _call("normalise", x, weight_D, *x.shape, float(eps), float(offset), out)
    return out


def rotate(x_TW: Tensor, cos_Tr: Tensor, sin_Tr: Tensor, heads: int) -> None:
    """Rotary embedding (half-split) of the first `heads` heads in each row, float32, in place."""
    cos, sin = cos_Tr.contiguous(), sin_Tr.contiguous()
    T, half = cos.shape
    _call("rotate", x_TW, cos, sin, T, heads, 2 * half, x_TW.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the T tokens of a pass lie: positions and sequences int32 [T], the sequences' pages int32 [N, most]."""

    positions: Tensor
    sequences: Tensor
    table: Tensor

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, int]:
        """As the kernels take them."""
        return self.positions, self.sequences, self.table, self.table.shape[1]


def _heads(x_THd: Tensor) -> Tensor:
    """In float32, each token's heads side by side; tokens may lie apart, as those of a product that gives more."""
    x = x_THd.float()
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()


def page_shape(which: str, d: int) -> tuple[int, int, int]:
    """Of one head's "k" or "v" on a page: what attention reads together lies together."""
    return (PAGE // SPAN, d, SPAN) if which == "k" else (-(-d // SPAN), PAGE, SPAN)


def append(k_TJd: Tensor, v_TJd: Tensor, places: Places, k_pages: Tensor, v_pages: Tensor) -> None:
    """Put keys and values on their pages, [P, J, *page_shape]."""
    k, v = _heads(k_TJd), _heads(v_TJd)
    _call("append", k, k.stride(0), v, v.stride(0), *k.shape, *places.arguments, k_pages, v_pages)


def attend(q_THd: Tensor, places: Places, k_pages: Tensor, v_pages: Tensor, window: int | None) -> Tensor:
    """Each token's attention to its own sequence up to itself. [T, H, d] -> [T, H, d]"""
    q = _heads(q_THd)
    (T, H, d), J, out = q.shape, k_pages.shape[1], q.new_empty(q.shape)
    _call("attend", q, q.stride(0), T, H, J, d, d**-0.5, *places.arguments, int(window or 0), k_pages, v_pages, out)
    return out.to(q_THd.dtype)
