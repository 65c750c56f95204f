"""Reads one GGUF file: metadata, tensor index, dequantised tensors.

The header is parsed here (struct over a memory map), because the `gguf` library's reader makes an object of every vocabulary
entry and takes 2 to 17 s for the models of this project. The library still defines the types and dequantises the tensors.
Format: ggml's docs/gguf.md, versions 2 and 3, little-endian.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize

from moe_lm.errors import ModelError

_SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies in the file; `shape` is row-major (GGUF writes it reversed)."""

    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    nbytes: int


CHUNK = 1 << 16  # values dequantised at a time: they stay in the CPU's cache


class GGUFFile:
    """Raises ModelError, naming the file, where it is not a GGUF file, is truncated, or has an unknown version or type."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with open(path, "rb") as f:
                self._map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot read {path}: {error}") from None
        try:
            self.metadata, self.tensors = _Header(self._map).read()
        except (struct.error, UnicodeDecodeError, ValueError, KeyError, OverflowError, MemoryError) as error:
            raise ModelError(f"{path} is not a readable GGUF file ({error}); it may be truncated: download it again") from None
        end = max((t.offset + t.nbytes for t in self.tensors.values()), default=0)
        if end > len(self._map):
            raise ModelError(f"{path} is truncated: {len(self._map):,} bytes of {end:,}; download it again")
        for kind, name in {tensor.type: name for name, tensor in self.tensors.items()}.items():
            try:
                dequantize(np.zeros(GGML_QUANT_SIZES[kind][1], np.uint8), kind)
            except NotImplementedError:
                raise ModelError(f"{path}: tensor {name} has type {kind.name}, which the gguf library can't dequantise") from None

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def chunks(self, name: str, multiple: int = 1) -> Iterator[np.ndarray]:
        """The tensor in float32, in chunks of its first dimension whose lengths are multiples of `multiple` (the last chunk's aside)."""
        info = self.tensors[name]
        length = info.shape[0] if info.shape else 1
        size = max(multiple, CHUNK // int(np.prod(info.shape[1:])) // multiple * multiple)
        raw = np.frombuffer(self._map, dtype=np.uint8, count=info.nbytes, offset=info.offset).reshape(length, -1)
        for begin in range(0, length, size):
            part = raw[begin : begin + size]
            yield _dequantised(part, (len(part), *info.shape[1:]), info.type)


def _dequantised(raw: np.ndarray, shape: tuple[int, ...], kind: GGMLQuantizationType) -> np.ndarray:
    if kind == GGMLQuantizationType.F32:
        return raw.view(np.float32).reshape(shape)
    # the library works on 16 rows at a time, which is slow for short rows: a chunk goes in as one row, unless it is a large one
    rows = shape[:-1] if np.prod(shape) > CHUNK else (1,)
    return dequantize(raw.reshape(*rows, -1), kind).reshape(shape)


class _Header:
    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def read(self) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
        if self.data[:4] != b"GGUF":
            raise ValueError(f"it begins with {self.data[:4]!r}")
        self.at = 4
        version = self._scalar("I")
        if version not in (2, 3):
            raise ValueError(f"version {version}, expected 2 or 3")
        num_tensors, num_keys = self._scalar("Q"), self._scalar("Q")
        metadata = {self._string(): self._value(GGUFValueType(self._scalar("I"))) for _ in range(num_keys)}
        found = [(self._string(), self._shape(), GGMLQuantizationType(self._scalar("I")), self._scalar("Q")) for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", 32)
        base = -(-self.at // alignment) * alignment
        return metadata, {name: _info(shape, kind, base + offset) for name, shape, kind, offset in found}

    def _scalar(self, code: str) -> Any:
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def _string(self) -> str:
        size = self._scalar("Q")
        if self.at + size > len(self.data):
            raise ValueError("a string runs past its end")
        self.at += size
        return self.data[self.at - size : self.at].decode("utf-8")

    def _strings(self, size: int) -> list[str]:
        """`size` strings at once: a vocabulary has hundreds of thousands."""
        data, at, read_size, found = self.data, self.at, struct.Struct("<Q").unpack_from, []
        for _ in range(size):
            begin = at + 8
            at = begin + read_size(data, at)[0]
            found.append(data[begin:at].decode("utf-8"))
        if at > len(data):
            raise ValueError("a string runs past its end")
        self.at = at
        return found

    def _shape(self) -> tuple[int, ...]:
        return tuple(self._scalar("Q") for _ in range(self._scalar("I")))[::-1]

    def _value(self, kind: GGUFValueType) -> Any:
        if kind == GGUFValueType.STRING:
            return self._string()
        if kind != GGUFValueType.ARRAY:
            return self._scalar(_SCALARS[kind])
        kind, size = GGUFValueType(self._scalar("I")), self._scalar("Q")
        if size > len(self.data):
            raise ValueError(f"an array of {size} entries")
        if kind == GGUFValueType.STRING:
            return self._strings(size)
        if kind == GGUFValueType.ARRAY:
            return [self._value(kind) for _ in range(size)]
        layout = f"<{size}{_SCALARS[kind]}"
        values = list(struct.unpack_from(layout, self.data, self.at))
        self.at += struct.calcsize(layout)
        return values


def _info(shape: tuple[int, ...], kind: GGMLQuantizationType, offset: int) -> TensorInfo:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return TensorInfo(shape, kind, offset, int(np.prod(shape, dtype=np.int64)) // block * block_bytes)
