"""Writes tensors, in the order in which they come, to safetensors files of a few GB, with an index where there are several."""

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from moe_lm.checkpoint.shards import INDEX, SINGLE

SHARD_BYTES = 2 << 30


class ShardWriter:
    """The memory is that of one file: `add` writes one when the next tensor would not fit any more, `close` the last."""

    def __init__(self, folder: Path, like: Path, shard_bytes: int = SHARD_BYTES):
        """`like`: the file whose permissions those of the weights are (safetensors makes its files readable by the owner alone)."""
        self._folder, self._like, self._limit = folder, like, shard_bytes
        self._shard: dict[str, Tensor] = {}
        self._size = self._total = 0
        self._written: list[tuple[Path, list[str]]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """A tensor's memory must not change before its file is written."""
        if self._shard and self._size + tensor.nbytes > self._limit:
            self._flush()
        self._shard[name] = tensor
        self._size += tensor.nbytes

    def close(self) -> None:
        """Write what is left, and name the files by how many there are."""
        self._flush()
        count, index = len(self._written), dict[str, str]()
        for i, (path, names) in enumerate(self._written, 1):
            name = SINGLE if count == 1 else f"model-{i:05}-of-{count:05}.safetensors"
            path.rename(self._folder / name)
            index |= dict.fromkeys(names, name)
        if count > 1:
            text = json.dumps({"metadata": {"total_size": self._total}, "weight_map": index}, indent=2)
            (self._folder / INDEX).write_text(text + "\n", "utf-8")

    def _flush(self) -> None:
        path = self._folder / f"model-{len(self._written) + 1:05}.safetensors"
        # a copy of what is part of a larger tensor: safetensors refuses tensors that share memory
        alone = {name: each if each.untyped_storage().nbytes() == each.nbytes else each.clone() for name, each in self._shard.items()}
        save_file(alone, path, metadata={"format": "pt"})
        shutil.copymode(self._like, path)
        self._written.append((path, list(self._shard)))
        self._total += self._size
        self._shard, self._size = {}, 0
