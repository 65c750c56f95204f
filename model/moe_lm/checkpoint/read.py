"""Reads checkpoints: opening one gives its configuration, tokenizer and sha256; its weights are read later, when they are needed.

Whatever can be checked without reading the weights is checked when the checkpoint is opened. Parameters are read one at a time.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moe_lm.checkpoint import folder, gguf_rope
from moe_lm.checkpoint.gguf_config import hf_config
from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.checkpoint.weights import Progress, Weights
from moe_lm.config import ModelConfig, from_hf
from moe_lm.errors import ModelError
from moe_lm.families import family_of
from moe_lm.families.names import GGUF_SEPARATE_EXPERTS
from moe_lm.model import Decoder
from moe_lm.tokenizer.tokenizer import Tokenizer

SERIAL = (1 << 15) - 1  # so few numbers torch sums or copies on one thread; waking others takes long on a busy machine


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint without the values of its weights; `sha256` is over all its bytes (weights, configuration, tokenizer).

    `read` returns the model in a precision and on a device. It raises ModelError for NaN or infinite values, and where the
    files have changed since they were hashed.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    sha256: str
    read: Callable[[torch.dtype, str, Progress | None], Decoder]
    notices: tuple[str, ...] = ()  # what a user should know about how the files were read, a line each


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to run."""

    model: Decoder
    tokenizer: Tokenizer
    sha256: str


def load(path: Path, dtype: torch.dtype = torch.float32, device: str = "cpu", progress: Progress | None = None) -> Loaded:
    """Open a checkpoint and read its weights at once. Raises ModelError as `open_checkpoint` and `Checkpoint.read` do."""
    checkpoint = open_checkpoint(path)
    return Loaded(checkpoint.read(dtype, device, progress), checkpoint.tokenizer, checkpoint.sha256)


def open_checkpoint(path: Path) -> Checkpoint:
    """Hash and check a .gguf file, or a folder with config.json, *.safetensors and tokenizer.json; no weight is read.

    Raises ModelError, in one line, for a missing, truncated or unsupported file and a missing, surplus or misshapen tensor.
    """
    parse: Callable[[Path], tuple[Tokenizer, Weights]]
    if path.is_dir():
        files, parse = folder.files_of(path), folder.parse
    elif path.suffix == ".gguf":
        files, parse = [path], _parse_gguf
    else:
        raise ModelError(f"{path} is neither a .gguf file nor a folder with config.json and *.safetensors")
    stamps = _stamps(files)
    tokenizer, weights = parse(path)
    weights.check()
    tokenizer.fit(weights.config.vocab_size)

    def read(dtype: torch.dtype, device: str, progress: Progress | None) -> Decoder:
        def check_unchanged() -> None:
            if _stamps(files) != stamps:
                raise ModelError(f"{path} changed after it was opened; run the same command again")

        check_unchanged()
        model = weights.read(dtype, device, progress)
        check_unchanged()
        return model

    return Checkpoint(weights.config, tokenizer, sha256_of(files), read, weights.notices)


def _stamps(files: Sequence[Path]) -> list[tuple[int, int, int]]:
    """Inode, size and ctime of each file: they change when a file is replaced or written to (mtime could be set back)."""
    try:
        return [(stat.st_ino, stat.st_size, stat.st_ctime_ns) for stat in (file.stat() for file in files)]
    except OSError as error:
        raise ModelError(f"cannot read {error.filename}: {error.strerror}") from None


def sha256_of(files: Iterable[Path]) -> str:
    """One digest over the files' contents, in the given order; a single file's is what `sha256sum` prints."""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as f:
            while block := f.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _parse_gguf(path: Path) -> tuple[Tokenizer, Weights]:
    file = GGUFFile(path)
    config = gguf_rope.with_rope_scaling(from_hf(hf_config(file.metadata, tied="output.weight" not in file.tensors)), file)
    family = family_of(config.family)

    def chunks(name: str) -> Iterator[Tensor]:
        interleaved = family.gguf_interleaved_rope and name.endswith(("attn_q.weight", "attn_k.weight"))
        for array in file.chunks(name, config.head_dim if interleaved else 1):
            if interleaved:
                array = _halves_apart(array, config.head_dim)
            if config.norm_offset and name.endswith("norm.weight"):
                array = array - np.float32(config.norm_offset)  # llama.cpp stores the sum
            yield from torch.from_numpy(array if array.flags.writeable else array.copy()).split(max(1, SERIAL // max(1, array[0].size)))

    try:
        tokenizer = Tokenizer.from_gguf(file.metadata)
    except ModelError:
        raise
    except Exception as error:  # a missing list, merges of unknown tokens: the tokenizers library raises bare Exception
        raise ModelError(f"{path}: its tokenizer is not readable ({error!r})") from None
    names = family.gguf_names
    if any(name.endswith("ffn_gate.0.weight") for name in file.tensors):
        names = {**names, **GGUF_SEPARATE_EXPERTS}
    return tokenizer, Weights(path, config, names, set(file.tensors) - gguf_rope.TENSORS, file.shape, chunks)


def _halves_apart(array: np.ndarray, head_dim: int) -> np.ndarray:
    """The rows of q or k heads as the decoder's rope wants them: those of the first half of a head, then those of the second."""
    rows, columns = array.shape
    return np.ascontiguousarray(array.reshape(-1, head_dim // 2, 2, columns).swapaxes(1, 2)).reshape(rows, columns)
