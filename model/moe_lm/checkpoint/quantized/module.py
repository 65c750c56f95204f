"""The stored tensors of one module, and checks of what they are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor

from moe_lm.errors import ModelError
from moe_lm.files import one_line

FLOATS = ("F16", "BF16", "F32")
INDICES = ("I32", "I64")
WORDS = ("I32",)


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of a tensor: its dtype (F16, I32 ..), shape and bytes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Module:
    """The tensors of a module by what follows its name and a dot: "weight", "qweight", "scales" .."""

    name: str
    tensors: Mapping[str, Header]
    read: Callable[[str], Tensor]

    def header(self, part: str) -> Header:
        """Raises ModelError where the module has no such tensor."""
        if part not in self.tensors:
            self.refuse(f"lacks its tensor {part}; is the folder complete?")
        return self.tensors[part]

    def dims(self, part: str, dtypes: tuple[str, ...], count: int = 2) -> tuple[int, ...]:
        """A tensor's shape. Raises ModelError where it is missing, has another dtype or number of dimensions, or is empty."""
        header = self.header(part)
        if header.dtype not in dtypes:
            self.refuse(f"has {part} in {header.dtype}, expected {' or '.join(dtypes)}")
        if len(header.shape) != count or 0 in header.shape:
            self.refuse(f"has {part} of shape {header.shape}, expected {count} dimensions")
        return header.shape

    def expect(self, part: str, dtypes: tuple[str, ...], shape: tuple[int, ...], why: str) -> None:
        """Raises ModelError as `dims` does, and for another shape; `why` says where the expected one comes from."""
        if (found := self.dims(part, dtypes, len(shape))) != shape:
            self.refuse(f"has {part} of shape {found}, where {why} ask for {shape}")

    def refuse(self, problem: str) -> NoReturn:
        raise ModelError(f"quantised module {one_line(self.name)} {problem}")
