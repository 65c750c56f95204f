"""The header of a GGUF file: its metadata, and where each tensor lies. Format: ggml's docs/gguf.md, versions 2 and 3, little-endian.

It is parsed here, over a memory map, because the `gguf` library's reader makes an object of every vocabulary entry and takes 2 to
17 s for the models of this project. Lists stay in the map until they are asked for, and every length is checked against the file:
whatever a damaged or hostile header says, reading it takes little memory beyond the file's own size.
"""

import math
import mmap
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from moe_lm import files

ALIGNMENT = 32  # of tensors, where general.alignment does not say
MAX_DIMENSIONS = 4  # ggml's own limit
MAX_KEYS, MAX_TENSORS = 1 << 16, 1 << 18  # real files have below a hundred keys, and a tensor for each expert at the most
MAX_NAME = 1 << 16  # bytes of a key, by the specification
MAX_STRINGS = 1 << 21  # of a list; the largest vocabularies have a quarter of a million tokens, and merges of twice as many

_TYPES = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "<u1",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies in its file; `shape` is row-major (GGUF writes it reversed)."""

    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    nbytes: int


class Strings:
    """A list of strings in a file, each decoded when it is asked for: a vocabulary has hundreds of thousands.

    They lie end to end, each behind its length: string i from bounds[i] to bounds[i + 1].
    """

    def __init__(self, data: mmap.mmap, bounds: array):
        self._data, self._bounds = data, bounds

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> str:
        return self._data[self._bounds[index] + _LENGTH.size : self._bounds[index + 1]].decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        data, size = self._data, _LENGTH.size  # a local name is found faster
        return (data[begin + size : end].decode("utf-8") for begin, end in pairwise(self._bounds))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Strings) and self._raw == other._raw

    def __hash__(self) -> int:
        return hash(self._raw)

    @property
    def _raw(self) -> bytes:
        """The strings and their lengths as they stand in the file: to compare them, none has to be decoded."""
        return self._data[self._bounds[0] : self._bounds[-1]]


def read_header(data: mmap.mmap) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """Metadata (numbers, strings, bools, `Strings` and numpy arrays) and tensors by name. Raises ValueError where it is not valid."""
    reader = _Reader(data)
    _check_version(data[:4], reader)
    num_tensors, num_keys = reader.integer("<u8"), reader.integer("<u8")
    for count, limit, what in ((num_keys, MAX_KEYS, "keys"), (num_tensors, MAX_TENSORS, "tensors")):
        if count > limit:
            raise ValueError(f"its header is damaged: it announces {count:,} {what}; download it again")
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = reader.name("key")
        if key in metadata:
            raise ValueError(f"it has the key {key} twice; convert the model again")
        metadata[key] = reader.value(key, reader.value_type(key))
    found: dict[str, tuple[tuple[int, ...], GGMLQuantizationType, int]] = {}
    for _ in range(num_tensors):
        name = reader.name("tensor")
        if name in found:
            raise ValueError(f"it has the tensor {name} twice; convert the model again")
        found[name] = (reader.shape(name), reader.tensor_type(name), reader.integer("<u8"))
    alignment = _alignment(metadata)
    base = -(-reader.at // alignment) * alignment
    tensors = {name: _placed(name, shape, kind, base, offset, alignment) for name, (shape, kind, offset) in found.items()}
    _refuse_overlap(tensors)
    return metadata, tensors


def metadata_bytes(data: mmap.mmap) -> dict[str, bytes]:
    """The type and value of each key as they stand in a file whose header `read_header` has found valid."""
    reader, found = _Reader(data), {}
    reader.at = 16  # behind the magic, the version and the number of tensors
    for _ in range(reader.integer("<u8")):
        key, begin = reader.name("key"), reader.at
        reader.value(key, reader.value_type(key))
        found[key] = data[begin : reader.at]
    return found


def _check_version(magic: bytes, reader: "_Reader") -> None:
    if magic != b"GGUF":
        raise ValueError(f"it begins with {magic!r}, not with b'GGUF'; is it what its name says?")
    reader.at = 4
    version = reader.integer("<u4")
    if version & 0xFFFF == 0 and version:
        raise ValueError("it is big-endian; convert it with llama.cpp's gguf_convert_endian.py to little")
    if version not in (2, 3):
        raise ValueError(f"it has GGUF version {version}, expected 2 or 3; convert the model again with a current llama.cpp")


def _alignment(metadata: dict[str, Any]) -> int:
    found = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(found, int) or isinstance(found, bool) or found <= 0 or found & (found - 1) or found > 1 << 31:
        raise ValueError(f"general.alignment is {shown(found)}, expected a power of two; convert the model again")
    return found


def _placed(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType, base: int, offset: int, alignment: int) -> TensorInfo:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    columns = shape[-1] if shape else 1
    if columns % block:
        raise ValueError(f"tensor {name} has rows of {columns}, no multiple of the {block} that type {kind.name} holds together")
    if offset % alignment:
        raise ValueError(f"tensor {name} lies at byte {offset:,} of the data, no multiple of the alignment {alignment}; download it again")
    return TensorInfo(shape, kind, base + offset, math.prod(shape) // block * block_bytes)


def _refuse_overlap(tensors: dict[str, TensorInfo]) -> None:
    end, before = 0, ""
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.offset < end:
            raise ValueError(f"tensors {before} and {name} overlap; download it again")
        end, before = tensor.offset + tensor.nbytes, name


def shown(value: Any) -> str:
    """A value of the metadata for a message: in one line, cut where it is long."""
    if isinstance(value, np.ndarray):
        value = value[:20].tolist()
    elif isinstance(value, Strings):
        value = [value[i] for i in range(min(20, len(value)))]
    return files.shown(value)


class _Reader:
    """Reads one thing after another from a map, never past its end."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def integer(self, kind: str) -> int:
        return int(self._numbers(kind, 1)[0])

    def name(self, what: str) -> str:
        """A key or a tensor's name. A message must be able to show it in a line."""
        raw = self._string()
        if len(raw) > MAX_NAME:
            raise ValueError(f"its header is damaged: the name of a {what} has {len(raw):,} bytes; download it again")
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            name = ""
        if not name.isprintable() or not name:
            raise ValueError(f"its header is damaged: it names a {what} {raw[:64]!r}; download it again")
        return name

    def value_type(self, key: str) -> GGUFValueType:
        return self._known(GGUFValueType, f"key {key}")

    def tensor_type(self, name: str) -> GGMLQuantizationType:
        return self._known(GGMLQuantizationType, f"tensor {name}")

    def _known(self, kinds: Any, what: str) -> Any:
        number = self.integer("<u4")
        try:
            return kinds(number)
        except ValueError:
            raise ValueError(f"{what} has unknown type {number}: the installed gguf library does not know it; update the library") from None

    def shape(self, name: str) -> tuple[int, ...]:
        count = self.integer("<u4")
        if count > MAX_DIMENSIONS:
            raise ValueError(f"tensor {name} has {count} dimensions, at most {MAX_DIMENSIONS} are allowed; download it again")
        return tuple(map(int, self._numbers("<u8", count)))[::-1]

    def value(self, key: str, kind: GGUFValueType) -> Any:
        if kind == GGUFValueType.STRING:
            return self._text(key)
        if kind != GGUFValueType.ARRAY:
            return self._list(key, kind, 1)[0].item()
        kind, size = self.value_type(key), self.integer("<u8")
        if kind == GGUFValueType.STRING:
            if size > MAX_STRINGS:
                raise ValueError(f"key {key} is a list of {size:,} texts, at most {MAX_STRINGS:,} make sense; download it again")
            return self._strings(size)
        if kind == GGUFValueType.ARRAY:
            raise ValueError(f"key {key} is a list of lists, which llama.cpp does not read either; convert the model again")
        return self._list(key, kind, size)

    def _list(self, key: str, kind: GGUFValueType, size: int) -> np.ndarray:
        found = self._numbers(_TYPES[kind], size)
        if kind != GGUFValueType.BOOL:
            return found
        if found.size and found.max() > 1:
            raise ValueError(f"key {key} is a bool of value {found.max()}, expected 0 or 1; download it again")
        return found.view(np.bool_)

    def _text(self, key: str) -> str:
        raw = self._string()
        if len(raw) > files.MAX_BYTES:
            raise ValueError(f"key {key} is a text of {len(raw):,} bytes; is it a model's file?")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"key {key} is not UTF-8 ({error.reason}); download it again") from None

    def _string(self) -> bytes:
        begin = self._take(self.integer("<u8"))
        return self.data[begin : self.at]

    def _strings(self, size: int) -> Strings:
        data, at, read_length, bounds = self.data, self.at, _LENGTH.unpack_from, array("Q", [self.at])
        last = len(data) - _LENGTH.size
        for _ in range(size):
            if at > last:
                break
            at += _LENGTH.size + read_length(data, at)[0]
            bounds.append(at)
        if len(bounds) <= size or at > len(data):
            self._ended()
        self.at = at
        return Strings(data, bounds)

    def _numbers(self, kind: str, count: int) -> np.ndarray:
        begin = self._take(count * np.dtype(kind).itemsize)
        return np.frombuffer(self.data, kind, count, begin)

    def _take(self, size: int) -> int:
        if size > len(self.data) - self.at:
            self._ended()
        begin, self.at = self.at, self.at + size
        return begin

    def _ended(self) -> None:
        raise ValueError(f"it ends, after {len(self.data):,} bytes, within its header: it is truncated or damaged; download it again")
