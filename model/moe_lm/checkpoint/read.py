"""A checkpoint on disk -> a Decoder in memory, one parameter at a time; every fault is named before any run starts."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from moe_lm.checkpoint.gguf_file import GGUFFile, hf_config
from moe_lm.checkpoint.names import Pieces, gguf_pieces, hf_pieces
from moe_lm.config import ModelConfig, from_hf
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

    def read(name: str) -> Tensor:
        array = file.tensor(name)
        if config.family == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
            array = _undo_rope_permutation(array, config)
        return torch.from_numpy(np.ascontiguousarray(array) if array.flags.writeable else array.copy())

    model = _assemble(config, gguf_pieces, set(file.tensors) - {"rope_freqs.weight"}, read, path, dtype, device, progress)
    try:
        tokenizer = Tokenizer.from_gguf(file.metadata)
    except ModelError:
        raise
    except Exception as error:  # a missing list, merges of unknown tokens: the tokenizers library raises bare Exception
        raise ModelError(f"{path}: its tokenizer is not readable ({error!r})") from None
    return Checkpoint(model, tokenizer, sha256_of([path]))


def _undo_rope_permutation(array: np.ndarray, config: ModelConfig) -> np.ndarray:
    # llama.cpp stores llama's q and k rows with the two halves of each head interleaved
    rows, columns = array.shape
    return array.reshape(-1, config.head_dim // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _load_folder(folder: Path, dtype: torch.dtype, device: str, progress: Progress | None) -> Checkpoint:
    config = from_hf(read_json(folder / "config.json"))
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise ModelError(f"{folder} holds no *.safetensors file (pickled checkpoints are never loaded)")
    where: dict[str, Path] = {}
    for shard in shards:
        try:
            with safe_open(shard, "pt") as f:
                where |= dict.fromkeys(f.keys(), shard)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{shard} is not a readable safetensors file ({error}); download it again") from None

    def read(name: str) -> Tensor:
        with safe_open(where[name], "pt") as f:
            return f.get_tensor(name)

    tied_copy = {"lm_head.weight"} if config.tie_word_embeddings else set()
    model = _assemble(config, hf_pieces, set(where) - tied_copy, read, folder, dtype, device, progress)
    tokenizer = Tokenizer.from_folder(folder)
    settings = [folder / name for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")]
    return Checkpoint(model, tokenizer, sha256_of([*(p for p in settings if p.exists()), *shards]))


def read_json(path: Path) -> dict:
    """A JSON object from a file; ModelError where it is missing or is none."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return value


def _assemble(
    config: ModelConfig,
    pieces_of: Callable[[str, int], Pieces],
    available: set[str],
    read: Callable[[str], Tensor],
    source: Path,
    dtype: torch.dtype,
    device: str,
    progress: Progress | None,
) -> Decoder:
    model = Decoder(config)
    num_experts = config.moe.num_experts if config.moe else 0
    plan = {name: pieces_of(name, num_experts) for name, _ in model.named_parameters()}
    needed = {piece for pieces in plan.values() for rows in pieces for piece in rows}
    for problem, names in (("lacks", needed - available), ("has an unexpected", available - needed)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(f"{source} {problem} tensor {min(names)}{more}; is it a complete {config.family} checkpoint?")
    done, total = 0, sum(p.numel() for p in model.parameters())
    for name, pieces in plan.items():
        parameter = model.get_parameter(name)
        value = torch.empty(parameter.shape, dtype=dtype, device=device)
        targets = value.split(len(value) // len(pieces)) if len(pieces) > 1 else (value,)
        for target, rows in zip(targets, pieces, strict=True):
            _fill(target.squeeze(0) if len(pieces) > 1 else target, [(piece, read(piece)) for piece in rows], source)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
        done += value.numel()
        if progress:
            progress(done, total)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.embed.weight
    return model.eval()


def _fill(target: Tensor, rows: list[tuple[str, Tensor]], source: Path) -> None:
    """Copy checkpoint tensors, stacked along the rows dimension (gate above up), into a parameter."""
    dim = target.ndim - 2 if len(rows) > 1 else 0
    for (name, tensor), part in zip(rows, target.chunk(len(rows), dim) if len(rows) > 1 else (target,), strict=True):
        if tensor.numel() == part.numel() and tensor.ndim != part.ndim:
            tensor = tensor.reshape(part.shape)  # GGUF drops dimensions of size one
        if tensor.shape != part.shape:
            raise ModelError(f"{source}: tensor {name} has shape {tuple(tensor.shape)}, its config says {tuple(part.shape)}")
        if not torch.isfinite(tensor.sum(dtype=torch.float32)) and not torch.isfinite(tensor).all():
            raise ModelError(f"{source}: tensor {name} holds NaN or infinite values; the checkpoint is damaged")
        part.copy_(tensor)
