"""The safetensors files of a folder as one table of tensors.

Which files hold the weights: those that model.safetensors.index.json names, else model.safetensors, else all of
model-00001-of-0000N.safetensors. Others are not read, such as the shards of an older save or Mistral's consolidated.safetensors.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from moe_lm.checkpoint.quantized.module import Header
from moe_lm.checkpoint.weights import Stored
from moe_lm.errors import ModelError
from moe_lm.files import MAX_BYTES, and_more, is_there, one_line, parse_json, read_json, refuse_lfs_pointer, shown

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

_SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
_ROWS = 256  # compared at a time


@dataclass(frozen=True, slots=True)
class Shards:
    """The files that hold a folder's weights, and the file in which the index places each tensor (none without an index)."""

    files: tuple[Path, ...]
    index: Mapping[str, str]


def find_shards(folder: Path) -> Shards:
    """Raises ModelError where there are none, one is missing, or it is not clear which are meant."""
    if is_there(folder / INDEX):
        index = read_index(folder / INDEX)
        names = sorted(set(index.values()))
        _refuse_missing(folder, names, f"which {INDEX} names")
        return Shards(tuple(folder / name for name in names), index)
    if is_there(folder / SINGLE):
        return Shards((folder / SINGLE,), {})
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    totals = {match[2] for name in others if (match := _SHARD.fullmatch(name))}
    if len(totals) == 1:
        (total,) = totals
        names = [f"model-{i:0{len(total)}}-of-{total}.safetensors" for i in range(1, min(int(total), 99_999) + 1)]
        _refuse_missing(folder, names, f"one of {int(total):,} shards")
        return Shards(tuple(folder / name for name in names), {})
    raise ModelError(_no_weights(folder, others))


def read_index(path: Path) -> dict[str, str]:
    """The file in which the index places each tensor. Raises ModelError where it is not an index of files beside it."""
    index = read_json(path).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise ModelError(f"{path} has no weight_map that names the file of each tensor; download it again")
    for tensor, name in index.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{path} places tensor {one_line(tensor)} in {shown(name)}, which is no safetensors file of this folder")
    return index


def _refuse_missing(folder: Path, names: Sequence[str], why: str) -> None:
    if missing := [name for name in names if not is_there(folder / name)]:
        raise ModelError(f"{folder} lacks {one_line(missing[0])}{and_more(len(missing) - 1)}, {why}; download it again")


def _no_weights(folder: Path, others: Sequence[str]) -> str:
    if others:
        named = ", ".join(others[:3]) + and_more(len(others) - 3)
        return (
            f"{folder} holds {named}, but no {INDEX}, which says which files hold the weights; "
            f"add it, or, where one file holds all weights, rename that to {SINGLE}"
        )
    if files := sorted(folder.glob("*.gguf")):
        return f"{folder} holds no *.safetensors file but GGUF files; name one of them: {files[0]}"
    return f"{folder} holds no *.safetensors file (pickled checkpoints are never loaded: save it again with safe_serialization=True)"


class TensorTable:
    """The tensors of several safetensors files; their values are mapped, not read."""

    notices: Sequence[str] = ()  # what a user should know about how they are read: nothing

    def __init__(self, shards: Shards):
        """Raises ModelError for a damaged file, and a tensor that two files hold or that lies elsewhere than the index says."""
        self._file: dict[str, Any] = {}
        self._entry: dict[str, Mapping[str, Any]] = {}
        self._where = where = dict[str, str]()
        for path in shards.files:
            file, header = _opened(path)
            for name, entry in header.items():
                if name in where:
                    raise ModelError(f"tensor {one_line(name)} is in {where[name]} and in {path}; download the folder again")
                if shards.index.get(name, path.name) != path.name:
                    raise ModelError(
                        f"tensor {one_line(name)} is in {path}, but {INDEX} places it in {shards.index[name]}; download both again"
                    )
                where[name] = str(path)
                self._file[name], self._entry[name] = file, entry
        for name in shards.index.keys() - where.keys():
            raise ModelError(f"tensor {one_line(name)} is not in {shards.index[name]}, where {INDEX} places it; download both again")

    def names(self) -> set[str]:
        return set(self._file)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._entry[name]["shape"])

    def header(self, name: str) -> Header:
        entry = self._entry[name]
        return Header(entry["dtype"], tuple(entry["shape"]), entry["data_offsets"][1] - entry["data_offsets"][0])

    def refuse_other_dtypes(self, names: Iterable[str] | None = None) -> None:
        """Raises ModelError where one of the tensors, or of all, has a dtype that is not one of `DTYPES`."""
        for name in self._entry if names is None else names:
            if (dtype := self._entry[name]["dtype"]) not in DTYPES:
                known = ", ".join(DTYPES)
                raise ModelError(
                    f"{self._where[name]}: tensor {one_line(name)} has dtype {dtype}; moe_lm reads {known}: save the model in one of them"
                )

    def sizes(self, names: Iterable[str]) -> Iterator[tuple[str, int, int]]:
        """For `Stored`: dtype, bytes and number of values of each tensor."""
        for header in map(self.header, names):
            yield DTYPES[header.dtype], header.nbytes, math.prod(header.shape)

    def stored(self) -> Stored:
        """In what dtype most of the bytes are."""
        return Stored.of(self.sizes(self._entry))

    def tensor(self, name: str) -> Tensor:
        return self._file[name].get_tensor(name)

    def chunks(self, name: str) -> Iterator[Tensor]:
        return iter([self.tensor(name)])  # mapped, not read: no chunks needed

    def quantized(self, name: str) -> None:
        """No tensor is quantised: see `moe_lm.checkpoint.quantized.table`."""

    def is_kept(self, name: str) -> bool:
        return False

    def width(self) -> float:
        """Bytes of a weight in memory."""
        return 4.0

    def equal(self, one: str, other: str) -> bool:
        """Do two tensors hold the same numbers?"""
        if self.shape(one) != self.shape(other):
            return False
        pairs = zip(self.tensor(one).split(_ROWS), self.tensor(other).split(_ROWS), strict=True)
        return all(torch.equal(x, y) if x.dtype == y.dtype else torch.equal(x.double(), y.double()) for x, y in pairs)


def _opened(path: Path) -> tuple[Any, dict[str, Any]]:
    """A file and its header: tensor -> {"dtype", "shape", "data_offsets"}, which the library has checked to fit the file."""
    refuse_lfs_pointer(path)
    try:
        file = safe_open(path, "pt")
        with open(path, "rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
            if size > MAX_BYTES:
                raise ModelError(f"{path}: its header is larger than {MAX_BYTES >> 20} MiB; is it what its name says?")
            header = parse_json(raw.read(size), f"the header of {path}")  # for tensors named twice, of which the library takes the last
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({one_line(str(error))}); download it again") from None
    header.pop("__metadata__", None)
    return file, header
