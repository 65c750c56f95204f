"""Reads checkpoints: opening one gives its configuration, tokenizer and sha256; its weights are read later, when they are needed.

Whatever can be checked without reading the weights is checked when the checkpoint is opened. Parameters are read one at a time.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from moe_lm.checkpoint.gguf_config import hf_config
from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.config import ModelConfig, from_hf, read_json
from moe_lm.errors import ModelError
from moe_lm.families import family_of
from moe_lm.families.names import GGUF_SEPARATE_EXPERTS, Pieces, pieces
from moe_lm.model import Decoder
from moe_lm.tokenizer.tokenizer import Tokenizer

SERIAL = (1 << 15) - 1  # so few numbers torch sums or copies on one thread; waking others takes long on a busy machine
Progress = Callable[[int, int], None]  # (parameters read, parameters in all)


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
    parse: Callable[[Path], tuple[Tokenizer, _Weights]]
    if path.is_dir():
        settings = [path / name for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")]
        files, parse = [*(p for p in settings if p.exists()), *sorted(path.glob("*.safetensors"))], _parse_folder
    elif path.suffix == ".gguf":
        files, parse = [path], _parse_gguf
    else:
        raise ModelError(f"{path} is neither a .gguf file nor a folder with config.json and *.safetensors")
    stamps = _stamps(files)
    tokenizer, weights = parse(path)
    weights.check()

    def read(dtype: torch.dtype, device: str, progress: Progress | None) -> Decoder:
        def check_unchanged() -> None:
            if _stamps(files) != stamps:
                raise ModelError(f"{path} changed after it was opened; run the same command again")

        check_unchanged()
        model = weights.read(dtype, device, progress)
        check_unchanged()
        return model

    return Checkpoint(weights.config, tokenizer, sha256_of(files), read)


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


def _parse_gguf(path: Path) -> tuple[Tokenizer, "_Weights"]:
    file = GGUFFile(path)
    config = from_hf(hf_config(file.metadata, tied="output.weight" not in file.tensors))
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
    return tokenizer, _Weights(path, config, names, set(file.tensors) - {"rope_freqs.weight"}, file.shape, chunks)


def _halves_apart(array: np.ndarray, head_dim: int) -> np.ndarray:
    """The rows of q or k heads as the decoder's rope wants them: those of the first half of a head, then those of the second."""
    rows, columns = array.shape
    return np.ascontiguousarray(array.reshape(-1, head_dim // 2, 2, columns).swapaxes(1, 2)).reshape(rows, columns)


def _parse_folder(folder: Path) -> tuple[Tokenizer, "_Weights"]:
    config = from_hf(read_json(folder / "config.json"))
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise ModelError(f"{folder} holds no *.safetensors file (pickled checkpoints are never loaded)")
    where: dict[str, Any] = {}
    for shard in shards:
        try:
            file = safe_open(shard, "pt")
            where |= dict.fromkeys(file.keys(), file)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{shard} is not a readable safetensors file ({error}); download it again") from None
    return Tokenizer.from_folder(folder), _Weights(
        folder,
        config,
        family_of(config.family).hf_names,
        set(where) - ({"lm_head.weight"} if config.tie_word_embeddings else set()),  # a tied head may be stored too
        lambda name: tuple(where[name].get_slice(name).get_shape()),
        lambda name: iter([where[name].get_tensor(name)]),  # mapped, not read: no chunks needed
    )


@dataclass(frozen=True, slots=True)
class _Weights:
    """The tensors of a checkpoint (names, shapes, and values in chunks along the first dimension) and where they go in a decoder."""

    path: Path
    config: ModelConfig
    names: Mapping[str, str]  # the format's, of the decoder's modules: see `moe_lm.families.names`
    tensors: set[str]
    shape: Callable[[str], tuple[int, ...]]
    chunks: Callable[[str], Iterator[Tensor]]

    def check(self) -> None:
        """Raises ModelError for a missing, surplus or misshapen tensor."""
        parameters = dict(Decoder(self.config).named_parameters())  # its memory is never touched, so it takes none
        needed = {piece for name in parameters for rows in self._pieces(name) for piece in rows}
        for problem, names in (("lacks", needed - self.tensors), ("has an unexpected", self.tensors - needed)):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise ModelError(f"{self.path} {problem} tensor {min(names)}{more}; is it a complete {self.config.family} checkpoint?")
        for name, parameter in parameters.items():
            for part, piece in self._parts(name, parameter.data):
                if part.shape != self.shape(piece):
                    raise ModelError(f"{self.path}: tensor {piece} has shape {self.shape(piece)}, its config says {tuple(part.shape)}")

    def read(self, dtype: torch.dtype, device: str, progress: Progress | None) -> Decoder:
        """Raises ModelError for NaN and infinite values."""
        model = Decoder(self.config)
        parameters = [(name, p.shape) for name, p in model.named_parameters()]
        done, total = 0, sum(shape.numel() for _, shape in parameters)
        for name, shape in parameters:
            value = torch.empty(shape, dtype=dtype, device=device)
            for part, piece in self._parts(name, value):
                self._fill(part, piece)
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
            done += value.numel()
            if progress:
                progress(done, total)
        if self.config.tie_word_embeddings:
            model.lm_head.weight = model.embed.weight
        return model.eval()

    def _pieces(self, name: str) -> Pieces:
        return pieces(name, self.names, self.config.moe.num_experts if self.config.moe else 0)

    def _parts(self, name: str, value: Tensor) -> Iterator[tuple[Tensor, str]]:
        """The parts of a parameter's memory, and the tensor that belongs in each."""
        found = self._pieces(name)
        for target, rows in zip(value.unbind() if len(found) > 1 else (value,), found, strict=True):
            for part, piece in zip(target.chunk(len(rows), dim=-2 if len(rows) > 1 else 0), rows, strict=True):
                # a single expert; and GGUF drops dimensions of size one
                yield part.squeeze(0) if part.ndim > len(self.shape(piece)) and part.shape[0] == 1 else part, piece

    def _fill(self, part: Tensor, name: str) -> None:
        begin = 0
        for chunk in self.chunks(name):
            # the sum first: NaN and infinity show in it, and it takes a tenth of the time
            if not math.isfinite(chunk.sum(dtype=torch.float32)) and not torch.isfinite(chunk).all():
                raise ModelError(f"{self.path}: tensor {name} holds NaN or infinite values; the checkpoint is damaged")
            part[begin : begin + len(chunk)] = chunk
            begin += len(chunk)
