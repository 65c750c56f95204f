"""Reads a GGUF checkpoint: configuration and tokenizer from the metadata, and the tensors as the decoder wants them."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from gguf import LlamaFileType
from torch import Tensor

from moe_lm.checkpoint import gguf_rope
from moe_lm.checkpoint.gguf_config import hf_config
from moe_lm.checkpoint.gguf_file import LATER_PART, PART, GGUFFile
from moe_lm.checkpoint.shards import DTYPES
from moe_lm.checkpoint.weights import Stored, Weights
from moe_lm.config import from_hf
from moe_lm.errors import ModelError
from moe_lm.families import family_of
from moe_lm.families.names import GGUF_SEPARATE_EXPERTS
from moe_lm.quant.weight import QuantizedWeight
from moe_lm.tokenizer.library import attempt
from moe_lm.tokenizer.tokenizer import Tokenizer

SERIAL = (1 << 15) - 1  # so few numbers torch sums or copies on one thread; waking others takes long on a busy machine


def model_in(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds one, or the first of its parts. Raises ModelError where there are several."""
    found = [path for path in sorted(folder.glob("*.gguf")) if not LATER_PART.search(path.name)]
    if len(found) > 1:
        raise ModelError(f"{folder} holds several GGUF files ({', '.join(path.name for path in found)}); give one of them")
    return found[0] if found else None


def files_of(path: Path) -> list[Path]:
    """The file, or all parts where its name is that of a part. A name is enough: `parse` refuses a part that is named otherwise."""
    return GGUFFile(path).paths if PART.fullmatch(path.name) else [path]


def parse(path: Path) -> tuple[Tokenizer, Weights]:
    """Raises ModelError where a file is missing, damaged or not supported."""
    file = GGUFFile(path)
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    try:
        config = from_hf(hf_config(file.metadata, shapes))
        config = gguf_rope.with_rope_scaling(config, file.metadata, gguf_rope.factors_of(file, config.head_dim // 2))
        tokenizer = attempt("its tokenizer is not readable", Tokenizer.from_gguf, file.metadata)
    except ModelError as error:
        raise type(error)(f"{path}: {error}") from None
    family = family_of(config.family)

    def is_interleaved(name: str) -> bool:
        return family.gguf_interleaved_rope and name.endswith(("attn_q.weight", "attn_k.weight"))

    def chunks(name: str) -> Iterator[Tensor]:
        interleaved = is_interleaved(name)
        for array in file.chunks(name, config.head_dim if interleaved else 1):
            if interleaved:
                array = _halves_apart(array, config.head_dim)
            if config.norm_offset and name.endswith("norm.weight"):
                array = array - np.float32(config.norm_offset)  # llama.cpp stores the sum
            yield from torch.from_numpy(array if array.flags.writeable else array.copy()).split(max(1, SERIAL // max(1, array[0].size)))

    def quantized(name: str) -> QuantizedWeight | None:
        if not file.is_kept(name):
            return None
        info = file.tensors[name]
        blocks = _halves_apart(file.blocks(name), config.head_dim) if is_interleaved(name) else file.blocks(name)
        return QuantizedWeight(info.type.name, torch.from_numpy(blocks[None] if blocks.ndim == 2 else blocks), info.shape[-1])

    names = family.gguf_names
    if any(name.endswith("ffn_gate.0.weight") for name in file.tensors):
        names = {**names, **GGUF_SEPARATE_EXPERTS}
    tensors = set(file.tensors) - gguf_rope.TENSORS
    held = stored(file)
    return tokenizer, Weights(path, config, names, tensors, file.shape, chunks, (), held, quantized, file.is_kept, file.width)


def stored(file: GGUFFile) -> Stored:
    """llama.cpp's name for the whole file ("Q4_K_M"), or else the type that most of its bytes are in."""
    kind = file.metadata.get("general.file_type")
    known = {each.value: each.name.partition("_")[2] for each in LlamaFileType if each.name.startswith(("ALL_", "MOSTLY_"))}
    named = known.get(kind) if isinstance(kind, int) else None
    tensors = ((DTYPES.get(t.type.name, t.type.name), t.nbytes, math.prod(t.shape)) for t in file.tensors.values())
    return Stored.of(tensors, DTYPES.get(named, named) if named else None)


def _halves_apart(array: np.ndarray, head_dim: int) -> np.ndarray:
    """The rows of q or k heads as the decoder's rope wants them: those of the first half of a head, then those of the second."""
    rows, columns = array.shape
    return np.ascontiguousarray(array.reshape(-1, head_dim // 2, 2, columns).swapaxes(1, 2)).reshape(rows, columns)
