"""A checkpoint on disk -> a Decoder in memory, one parameter at a time; every fault is named before any run starts."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from moe_lm.checkpoint.gguf_file import PERMUTED, GGUFFile, hf_config
from moe_lm.checkpoint.names import Pieces, gguf_pieces, hf_pieces
from moe_lm.config import ModelConfig, from_hf, read_json
from moe_lm.errors import ModelError
from moe_lm.model import Decoder
from moe_lm.tokenizer import Tokenizer

Progress = Callable[[int, int], None]  # (parameters read, parameters in all)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model ready to run, and the sha256 over the bytes it came from (weights, configuration, tokenizer)."""

    model: Decoder
    tokenizer: Tokenizer
    sha256: str


def load(path: Path, dtype: torch.dtype = torch.float32, device: str = "cpu", progress: Progress | None = None) -> Checkpoint:
    """Read a .gguf file or a folder with config.json, *.safetensors and tokenizer.json.

    Raises ModelError, in one line, for a missing, truncated or unsupported file and a missing, surplus, misshapen or NaN tensor.
    """
    if path.is_dir():
        return _load_folder(path, dtype, device, progress)
    if path.suffix == ".gguf":
        return _load_gguf(path, dtype, device, progress)
    raise ModelError(f"{path} is neither a .gguf file nor a folder with config.json and *.safetensors")


def sha256_of(files: Iterable[Path]) -> str:
    """One digest over the files' contents, in the given order; a single file's is what `sha256sum` prints."""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as f:
            while block := f.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _load_gguf(path: Path, dtype: torch.dtype, device: str, progress: Progress | None) -> Checkpoint:
    file = GGUFFile(path)
    config = from_hf(hf_config(file.metadata, tied="output.weight" not in file.tensors))

    def chunks(name: str) -> Iterator[Tensor]:
        permuted = config.family in PERMUTED and name.endswith(("attn_q.weight", "attn_k.weight"))
        for array in file.chunks(name, config.head_dim if permuted else 1):
            if permuted:
                array = _undo_rope_permutation(array, config.head_dim)
            if config.norm_offset and name.endswith("norm.weight"):
                array = array - np.float32(config.norm_offset)  # llama.cpp has it added
            yield torch.from_numpy(array if array.flags.writeable else array.copy())

    merged = not any(name.endswith("ffn_gate.0.weight") for name in file.tensors)
    source = _Source(path, set(file.tensors) - {"rope_freqs.weight"}, file.shape, chunks)
    model = _assemble(config, partial(gguf_pieces, config=config, merged=merged), source, dtype, device, progress)
    try:
        tokenizer = Tokenizer.from_gguf(file.metadata)
    except ModelError:
        raise
    except Exception as error:  # a missing list, merges of unknown tokens: the tokenizers library raises bare Exception
        raise ModelError(f"{path}: its tokenizer is not readable ({error!r})") from None
    return Checkpoint(model, tokenizer, sha256_of([path]))


def _undo_rope_permutation(array: np.ndarray, head_dim: int) -> np.ndarray:
    rows, columns = array.shape
    return np.ascontiguousarray(array.reshape(-1, head_dim // 2, 2, columns).swapaxes(1, 2)).reshape(rows, columns)


def _load_folder(folder: Path, dtype: torch.dtype, device: str, progress: Progress | None) -> Checkpoint:
    config = from_hf(read_json(folder / "config.json"))
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise ModelError(f"{folder} holds no *.safetensors file (pickled checkpoints are never loaded)")
    where: dict[str, Any] = {}
    with ExitStack() as stack:
        for shard in shards:
            try:
                file = stack.enter_context(safe_open(shard, "pt"))
                where |= dict.fromkeys(file.keys(), file)
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{shard} is not a readable safetensors file ({error}); download it again") from None
        tied_copy = {"lm_head.weight"} if config.tie_word_embeddings else set()
        source = _Source(
            folder,
            set(where) - tied_copy,
            lambda name: tuple(where[name].get_slice(name).get_shape()),
            lambda name: iter([where[name].get_tensor(name)]),  # mapped, not read: no chunks needed
        )
        model = _assemble(config, partial(hf_pieces, config=config), source, dtype, device, progress)
    tokenizer = Tokenizer.from_folder(folder)
    settings = [folder / name for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")]
    return Checkpoint(model, tokenizer, sha256_of([*(p for p in settings if p.exists()), *shards]))


@dataclass(frozen=True, slots=True)
class _Source:
    """The tensors of a checkpoint: their names, shapes, and values in pieces along the first dimension."""

    path: Path
    names: set[str]
    shape: Callable[[str], tuple[int, ...]]
    chunks: Callable[[str], Iterator[Tensor]]


def _assemble(
    config: ModelConfig,
    pieces_of: Callable[[str], Pieces],
    source: _Source,
    dtype: torch.dtype,
    device: str,
    progress: Progress | None,
) -> Decoder:
    model = Decoder(config)
    plan = {name: pieces_of(name) for name, _ in model.named_parameters()}
    needed = {piece for pieces in plan.values() for rows in pieces for piece in rows}
    for problem, names in (("lacks", needed - source.names), ("has an unexpected", source.names - needed)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(f"{source.path} {problem} tensor {min(names)}{more}; is it a complete {config.family} checkpoint?")
    done, total = 0, sum(p.numel() for p in model.parameters())
    for name, pieces in plan.items():
        value = torch.empty(model.get_parameter(name).shape, dtype=dtype, device=device)
        targets = value.unbind() if len(pieces) > 1 else (value,)
        for target, rows in zip(targets, pieces, strict=True):
            for piece, part in zip(rows, target.chunk(len(rows), dim=-2 if len(rows) > 1 else 0), strict=True):
                _fill(part, piece, source)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
        done += value.numel()
        if progress:
            progress(done, total)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.embed.weight
    return model.eval()


def _fill(part: Tensor, name: str, source: _Source) -> None:
    """Copy one checkpoint tensor into (a part of) a parameter."""
    shape = source.shape(name)
    if part.ndim > len(shape) and part.shape[0] == 1:
        part = part.squeeze(0)  # a single expert; and GGUF drops dimensions of size one
    if part.shape != shape:
        raise ModelError(f"{source.path}: tensor {name} has shape {shape}, its config says {tuple(part.shape)}")
    begin = 0
    for chunk in source.chunks(name):
        # the sum first: NaN and infinity show in it, and it costs a tenth
        if not torch.isfinite(chunk.sum(dtype=torch.float32)) and not torch.isfinite(chunk).all():
            raise ModelError(f"{source.path}: tensor {name} holds NaN or infinite values; the checkpoint is damaged")
        part[begin : begin + len(chunk)] = chunk
        begin += len(chunk)
