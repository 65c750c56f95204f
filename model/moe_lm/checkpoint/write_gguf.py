"""Writes a checkpoint as one GGUF file, tensor by tensor: the memory is that of the largest parameter, and of a chunk in its new type.

A Hugging Face folder's parameters are written under llama.cpp's names. A GGUF file keeps its metadata, its tokenizer, and every tensor
that has the wanted type already, byte for byte.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_VERSION
from torch import Tensor

from moe_lm.checkpoint import gguf_metadata
from moe_lm.checkpoint.gguf import model_in
from moe_lm.checkpoint.gguf_bytes import Entry, header, value_bytes, write_tensors
from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.checkpoint.read import Checkpoint
from moe_lm.checkpoint.weights import Progress, outlines
from moe_lm.config import ModelConfig
from moe_lm.errors import ModelError
from moe_lm.families import family_of
from moe_lm.families.names import pieces
from moe_lm.quant.encode import encode
from moe_lm.quant.file_types import FileType, Mixture, fitting, is_matrix, kind_of
from moe_lm.tokenizer import gguf_write

CHUNK = 1 << 24  # weights that change their type at a time

Shape = tuple[int, ...]
Chunks = Iterator[np.ndarray]
_SPLIT = ("split.no", "split.count", "split.tensors.count", "general.alignment")  # of a file that was laid out in another way


@dataclass(frozen=True, slots=True)
class Plan:
    """A file that can be written: everything but the values of its tensors, which `tensors` takes one after another."""

    header: bytes
    entries: tuple[Entry, ...]
    tensors: Callable[[Progress | None], Iterator[Chunks]]
    notices: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return len(self.header) + sum(entry.room for entry in self.entries)

    @property
    def weight_bytes(self) -> int:
        """What the tensors take, without the metadata and the space between them."""
        return sum(entry.nbytes for entry in self.entries)

    @property
    def kinds(self) -> Counter[str]:
        """How many weights are of which type."""
        found = Counter[str]()
        for entry in self.entries:
            found[entry.kind] += entry.weights
        return found

    def write(self, path: Path, progress: Progress | None = None) -> None:
        """Write the file under another name, then rename it: it is whole or not there. Raises ModelError as the source, OSError."""
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                file.write(self.header)
                write_tensors(file, self.entries, self.tensors(progress))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            with suppress(OSError):
                partial.unlink()


def plan(checkpoint: Checkpoint, file_type: FileType, name: str) -> Plan:
    """The file that a folder's parameters, or random ones, make. `name` is that of the model.

    Raises Unsupported, by name, for a configuration or a tokenizer that the format, or llama.cpp, has no words for.
    """
    config = checkpoint.config
    keys, factors = gguf_metadata.keys_of(config)
    shapes = dict(_shapes(config)) | {tensor: values.shape for tensor, values in factors.items()}
    keys |= {"general.name": name} | gguf_write.keys_of(checkpoint.tokenizer, config.vocab_size)
    gguf_metadata.check(config, keys, factors, shapes)
    entries, notices = _entries(shapes, file_type, config)
    metadata = {key: value_bytes(value) for key, value in (keys | _type_keys(file_type)).items()}
    kinds = {entry.name: entry.kind for entry in entries}

    def tensors(progress: Progress | None) -> Iterator[Chunks]:
        done, total = 0, sum(entry.weights for entry in entries)
        for parameter, value in checkpoint.stream():
            for tensor, part in _parts(config, parameter, value):
                yield _encoded(tensor, part, kinds[tensor])
                done += part.numel()
                if progress:
                    progress(done, total)
            del value, part  # before the next one takes memory
        for values in factors.values():
            yield iter([values])

    if config.sliding_window is not None and keys["general.architecture"] == "llama":
        notices.append(f"llama.cpp computes architecture llama without a sliding window: the same up to {config.sliding_window:,} tokens")
    if checkpoint.stored and checkpoint.stored.is_rounded:
        notices.append(rounded_before(checkpoint.stored.precision))
    if gguf_metadata.copies_head(config):
        notices.append("the tied head is written a second time, as output.weight, which llama.cpp needs for this architecture")
    return Plan(header(metadata, entries), entries, tensors, tuple(notices))


def rounded_before(kinds: str) -> str:
    """The notice that a source is quantised itself."""
    return f"the source is quantised itself ({kinds}): what is rounded here has lost precision before"


def gguf_in(path: Path) -> Path | None:
    """The GGUF file that `open_checkpoint` reads of this path; None where it reads a Hugging Face folder."""
    if path.is_dir():
        return None if (path / "config.json").exists() else model_in(path)
    return path


def replan(path: Path, config: ModelConfig, file_type: FileType) -> Plan:
    """The file that another GGUF file makes; `config` is what `open_checkpoint` made of it."""
    file = GGUFFile(path)
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    stored = {name: tensor.type.name for name, tensor in file.tensors.items()}
    entries, notices = _entries(shapes, file_type, config, stored)
    metadata = file.metadata_bytes()
    for key in _SPLIT:
        metadata.pop(key, None)
    metadata |= {key: value_bytes(value) for key, value in _type_keys(file_type).items()}
    if again := sorted({stored[entry.name] for entry in entries} - {"F32", "F16", "BF16", file_type.kind}):
        notices.append(rounded_before(", ".join(again)))

    def tensors(progress: Progress | None) -> Iterator[Chunks]:
        done, total = 0, sum(entry.weights for entry in entries)
        for entry in entries:
            yield iter([file.blocks(entry.name)]) if stored[entry.name] == entry.kind else _converted(file, entry)
            done += entry.weights
            if progress:
                progress(done, total)

    return Plan(header(metadata, entries), entries, tensors, tuple(notices))


def _type_keys(file_type: FileType) -> dict[str, Any]:
    return {"general.file_type": int(file_type.number), "general.quantization_version": GGML_QUANT_VERSION}


def _shapes(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    for parameter, value in outlines(config).items():
        yield from ((tensor, tuple(part.shape)) for tensor, part in _parts(config, parameter, value))


def _entries(
    shapes: Mapping[str, Shape], file_type: FileType, config: ModelConfig, stored: Mapping[str, str] | None = None
) -> tuple[tuple[Entry, ...], list[str]]:
    """The tensors in their types, and what a user should know about these. What is no matrix keeps its type, or is float32."""
    architecture = gguf_metadata.architecture_of(config)
    experts = config.moe.num_experts if config.moe else 0
    heads = config.num_attention_heads, config.num_key_value_heads
    mixture = Mixture.of(architecture, shapes, config.num_hidden_layers, experts, *heads)
    found, others = [], dict[tuple[str, str], set[int]]()
    for name, shape in shapes.items():
        kind = stored[name] if stored else "F32"
        if is_matrix(name, shape):
            wanted = kind_of(name, shape, file_type, mixture)
            kind = fitting(wanted, shape[-1])
            if kind != wanted:
                others.setdefault((wanted, kind), set()).add(shape[-1])
        found.append(Entry(name, shape, kind))
    notices = [
        f"matrices with rows of {' or '.join(map(str, sorted(widths)))} are {kind}, since these are no whole blocks of {wanted}"
        for (wanted, kind), widths in others.items()
    ]
    return tuple(found), notices


def _parts(config: ModelConfig, parameter: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors that llama.cpp's converter makes of a parameter, each under its name."""
    family = family_of(config.family)
    (names,) = pieces(parameter, family.gguf_names, num_experts=1)
    for name, part in zip(names, value.chunk(len(names), dim=-2) if len(names) > 1 else (value,), strict=True):
        if family.gguf_interleaved_rope and name.endswith(("attn_q.weight", "attn_k.weight")):
            part = _halves_together(part, config.head_dim)
        if config.norm_offset and name.endswith("norm.weight"):
            part = part + config.norm_offset  # llama.cpp multiplies by the sum
        if name.endswith("ffn_gate_inp_shexp.weight"):
            part = part[0]
        yield name, part
        if name == "token_embd.weight" and gguf_metadata.copies_head(config):
            yield "output.weight", part


def _halves_together(weight: Tensor, head_dim: int) -> Tensor:
    """The rows of q or k heads as llama.cpp's rope wants them: of each pair that is turned together, one after the other."""
    return weight.reshape(-1, 2, head_dim // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _encoded(name: str, value: Tensor, kind: str) -> Chunks:
    for matrix in value if value.ndim == 3 else value.reshape(1, -1, value.shape[-1]):
        for rows in matrix.split(max(1, CHUNK // matrix.shape[1])):
            yield _bytes(name, rows, kind)


def _converted(file: GGUFFile, entry: Entry) -> Chunks:
    for array in file.chunks(entry.name):
        if not np.isfinite(array).all():
            raise ModelError(f"{file.paths[0]}: tensor {entry.name} holds NaN or infinite values; the checkpoint is damaged")
        yield _bytes(entry.name, torch.from_numpy(np.array(array)).reshape(-1, entry.shape[-1]), entry.kind)


def _bytes(name: str, rows: Tensor, kind: str) -> np.ndarray:
    try:
        return encode(rows, kind)
    except ModelError as error:
        raise ModelError(f"tensor {name} can't be written: {error}") from None
