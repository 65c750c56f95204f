"""A GGUF checkpoint's metadata and dequantised tensors, from one file or from the parts that llama.cpp's gguf-split makes of one.

Of several parts, NAME-00001-of-00003.gguf and so on, the first has the metadata. The gguf library defines the types and dequantises.
"""

import math
import mmap
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from moe_lm.checkpoint.gguf_header import TensorInfo, metadata_bytes, read_header, shown
from moe_lm.errors import ModelError
from moe_lm.files import and_more, refuse_lfs_pointer
from moe_lm.quant.kinds import KINDS

CHUNK = 1 << 16  # values dequantised at a time: they stay in the CPU's cache

LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_COMMON = ("split.count", "split.tensors.count", "general.architecture", "general.name", "general.file_type")  # to all parts of a model


class GGUFFile:
    """Raises ModelError, naming the file, where it or another part is not a GGUF file, damaged, or of an unknown version or type."""

    def __init__(self, path: Path):
        first = _Part(path)
        parts = [first, *(_Part(other) for other in _other_parts(first))]
        self.paths = [part.path for part in parts]
        self.metadata: Mapping[str, Any] = first.metadata
        self.tensors: dict[str, TensorInfo] = {}
        self._first = first
        self._parts: dict[str, _Part] = {}
        for number, part in enumerate(parts):
            _check_part(part, number, first)
            if twice := self.tensors.keys() & part.tensors.keys():
                raise ModelError(f"{part.path} holds tensor {min(twice)}, as another part does: they are parts of different models")
            self.tensors |= part.tensors
            self._parts |= dict.fromkeys(part.tensors, part)
        expected = first.single("split.tensors.count", len(self.tensors))
        if expected != len(self.tensors):
            raise ModelError(f"{path} and its other parts hold {len(self.tensors):,} tensors, split.tensors.count says {shown(expected)}")

    def is_kept(self, name: str) -> bool:
        """Is it a matrix of `KINDS`, which may stay as it is stored? Other tensors become float32."""
        tensor = self.tensors[name]
        return tensor.type.name in KINDS and len(tensor.shape) > 1

    @property
    def kind(self) -> str | None:
        """The one of `KINDS` that most bytes of kept matrices are in; None where there are none."""
        total = Counter[str]()
        for name, tensor in self.tensors.items():
            if self.is_kept(name):
                total[tensor.type.name] += tensor.nbytes
        return max(total, key=lambda kind: total[kind], default=None)

    def width(self) -> float:
        """Bytes of a weight in memory, on average, where matrices are kept."""
        weights = {name: math.prod(tensor.shape) for name, tensor in self.tensors.items()}
        taken = [self.tensors[name].nbytes if self.is_kept(name) else 4 * count for name, count in weights.items()]
        return sum(taken) / max(1, sum(weights.values()))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def metadata_bytes(self) -> dict[str, bytes]:
        """The type and value of each key, as they stand in the file."""
        return metadata_bytes(self._first.map)

    def blocks(self, name: str) -> np.ndarray:
        """The tensor as it is stored, uint8 [.., bytes of a row], in a mapping of its own: the memory is given back when the array goes.

        Raises ModelError where the file is gone or shorter than it was.
        """
        info = self.tensors[name]
        begin = info.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        path = self._parts[name].path
        try:
            with open(path, "rb") as file:
                mapping = mmap.mmap(file.fileno(), info.offset + info.nbytes - begin, access=mmap.ACCESS_COPY, offset=begin)
        except (OSError, ValueError):
            raise ModelError(f"{path} changed after it was opened; run the same command again") from None
        return np.frombuffer(mapping, np.uint8, info.nbytes, info.offset - begin).reshape(*info.shape[:-1], -1)

    def chunks(self, name: str, multiple: int = 1) -> Iterator[np.ndarray]:
        """The tensor in float32, in chunks of its first dimension whose lengths are multiples of `multiple` (the last chunk's aside)."""
        info = self.tensors[name]
        mapping = self._parts[name].map
        raw = np.frombuffer(mapping, dtype=np.uint8, count=info.nbytes, offset=info.offset)
        if len(info.shape) > 1:
            length, *row = info.shape
            size = max(multiple, CHUNK // math.prod(row) // multiple * multiple)
            for begin in range(0, length, size):
                part = raw.reshape(length, -1)[begin : begin + size]
                yield _dequantised(part, (len(part), *row), info.type)
        else:  # it is a single row of blocks
            yield _dequantised(raw, info.shape, info.type)
        mapping.madvise(mmap.MADV_DONTNEED)  # what was read, and the file around it, needs no memory any more


def _dequantised(raw: np.ndarray, shape: tuple[int, ...], kind: GGMLQuantizationType) -> np.ndarray:
    if kind == GGMLQuantizationType.F32:
        return raw.view(np.float32).reshape(shape)
    # the library works on 16 rows at a time, which is slow for short rows: a chunk goes in as one row, unless it is a large one
    rows = shape[:-1] if np.prod(shape) > CHUNK else (1,)
    with np.errstate(invalid="ignore", over="ignore"):  # of a damaged scale; NaN and infinite values are refused where they are used
        return dequantize(raw.reshape(*rows, -1), kind).reshape(shape)


class _Part:
    """One file."""

    def __init__(self, path: Path):
        self.path = path
        refuse_lfs_pointer(path)
        try:
            with open(path, "rb") as f:
                self.map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise ModelError(f"{path} is empty; download it again") from None
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror}") from None
        try:
            self.metadata, self.tensors = read_header(self.map)
        except ValueError as error:
            raise ModelError(f"{path} is not a readable GGUF file: {error}") from None
        end = max((t.offset + t.nbytes for t in self.tensors.values()), default=0)
        if end > len(self.map):
            raise ModelError(f"{path} is truncated or damaged: {len(self.map):,} bytes of {end:,}; download it again")
        for kind, name in {tensor.type: name for name, tensor in self.tensors.items()}.items():
            try:
                dequantize(np.zeros(GGML_QUANT_SIZES[kind][1], np.uint8), kind)
            except NotImplementedError:
                raise ModelError(f"{path}: tensor {name} has type {kind.name}, which the gguf library can't dequantise") from None

    def single(self, key: str, default: Any = None) -> Any:
        """The value of a key that is no list."""
        found = self.metadata.get(key, default)
        if hasattr(found, "__len__") and not isinstance(found, str):
            raise ModelError(f"{self.path}: {key} is {shown(found)}, expected no list; convert the model again")
        return found

    @property
    def count(self) -> int:
        """Of how many parts it is one."""
        found = self.single("split.count", 1)
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= 99_999:
            raise ModelError(f"{self.path}: split.count is {shown(found)}, expected a number of parts; download it again")
        return max(1, found)


def _other_parts(first: _Part) -> list[Path]:
    """The paths of the second part and those after it, by llama.cpp's naming."""
    if first.count == 1:
        return []
    match = PART.fullmatch(first.path.name)
    if not match or int(match[3]) != first.count:
        name = f"{first.path.stem}-00001-of-{first.count:05}.gguf"
        raise ModelError(f"{first.path} is one of {first.count} parts, which its name must say as in {name}; rename the parts")
    names = [f"{match[1]}-{i:05}-of-{match[3]}.gguf" for i in range(1, first.count + 1)]
    if int(match[2]) != 1 or first.single("split.no") != 0:
        raise ModelError(f"{first.path} is not the first of {first.count} parts; give {names[0]}")
    paths = [first.path.with_name(name) for name in names]
    if missing := [path.name for path in paths if not path.exists()]:
        named = f"{missing[0]}{and_more(len(missing) - 1)}"
        raise ModelError(f"{first.path} is one of {first.count} parts, of which {named} is missing; download it too")
    return paths[1:]


def _check_part(part: _Part, number: int, first: _Part) -> None:
    """Raises ModelError where a part's metadata says that it belongs elsewhere. Most parts have no more than their number and counts."""
    if part is first:
        return
    if (found := part.single("split.no")) != number:
        raise ModelError(f"{part.path} has split.no = {shown(found)}, and its name stands for {number}; rename the parts")
    for key in _COMMON:
        found, expected = part.single(key), first.single(key)
        if found != expected and (found is not None or key.startswith("split.")):
            theirs = f"{first.path.name} {shown(expected)}"
            raise ModelError(f"{part.path} has {key} = {shown(found)}, {theirs}: they are parts of different models")
