"""A GGUF file's bytes (ggml's docs/gguf.md, version 3, little-endian): its header, and tensors that come in chunks.

Written here, since the `gguf` library's writer wants whole tensors, has no empty lists, and can't pass metadata on as it stands.
"""

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from moe_lm.checkpoint.gguf_header import ALIGNMENT

_VERSION = 3
# what Python's values become: GGUF's type, and how it is laid out ("": as a text)
_KINDS = {
    bool: (GGUFValueType.BOOL, "<?"),
    int: (GGUFValueType.UINT32, "<I"),
    float: (GGUFValueType.FLOAT32, "<f"),
    str: (GGUFValueType.STRING, ""),
}
_LISTS = {int: (GGUFValueType.INT32, "<i4"), float: (GGUFValueType.FLOAT32, "<f4"), str: (GGUFValueType.STRING, "")}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a file: its row-major shape and type."""

    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        weights, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[self.kind]]
        return self.weights // weights * nbytes

    @property
    def room(self) -> int:
        """Bytes up to the next tensor."""
        return self.nbytes + _padding(self.nbytes)


def value_bytes(value: Any) -> bytes:
    """A key's type and value: whole numbers become uint32, those of a list int32, floats float32. An empty list is one of texts."""
    if isinstance(value, list):
        kind, array = _LISTS[type(value[0]) if value else str]
        entries = np.array(value, array).tobytes() if array else b"".join(map(_text, value))
        return struct.pack("<IIQ", GGUFValueType.ARRAY, kind, len(value)) + entries
    kind, layout = _KINDS[type(value)]
    return struct.pack("<I", kind) + (struct.pack(layout, value) if layout else _text(value))


def header(metadata: Mapping[str, bytes], entries: Sequence[Entry]) -> bytes:
    """Everything before the tensors; `metadata` as of `value_bytes`."""
    parts = [struct.pack("<4sIQQ", b"GGUF", _VERSION, len(entries), len(metadata))]
    parts += [part for key, value in metadata.items() for part in (_text(key), value)]
    offset = 0
    for entry in entries:
        dimensions = entry.shape[::-1]
        numbers = struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, GGMLQuantizationType[entry.kind], offset)
        parts += [_text(entry.name), numbers]
        offset += entry.room
    whole = b"".join(parts)
    return whole + bytes(_padding(len(whole)))


def write_tensors(file: BinaryIO, entries: Iterable[Entry], tensors: Iterable[Iterator[np.ndarray]]) -> None:
    """The entries' bytes, in their order, each from chunks of its own."""
    for entry, chunks in zip(entries, tensors, strict=True):
        written = 0
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk).data)  # numpy's tofile keeps to itself why it failed: a full disk, say
            written += chunk.nbytes
        if written != entry.nbytes:
            raise ValueError(f"tensor {entry.name} came as {written:,} bytes, its type and shape say {entry.nbytes:,}")
        file.write(bytes(_padding(written)))


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padding(size: int) -> int:
    return -size % ALIGNMENT
