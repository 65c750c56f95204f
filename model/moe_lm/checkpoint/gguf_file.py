"""Reading one GGUF file: metadata, tensor index, dequantised tensors.

The header is parsed here (struct over a memory map): the `gguf` library's reader makes an object of every vocabulary
entry and takes 2 to 17 s for the models of this project; the library still defines the types and dequantises the tensors.
Format: ggml's docs/gguf.md, versions 2 and 3, little-endian.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize

from moe_lm.errors import ModelError

_SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies in the file; `shape` is row-major (GGUF writes it reversed)."""

    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    nbytes: int


CHUNK = 1 << 16  # values dequantised at a time: they stay in the CPU's cache


class GGUFFile:
    """Raises ModelError, naming the file, where it is no GGUF, truncated, or of an unknown version or type."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with open(path, "rb") as f:
                self._map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot read {path}: {error}") from None
        try:
            self.metadata, self.tensors = _Header(self._map).read()
        except (struct.error, UnicodeDecodeError, ValueError, KeyError, OverflowError, MemoryError) as error:
            raise ModelError(f"{path} is not a readable GGUF file ({error}); it may be truncated: download it again") from None
        end = max((t.offset + t.nbytes for t in self.tensors.values()), default=0)
        if end > len(self._map):
            raise ModelError(f"{path} is truncated: {len(self._map):,} bytes of {end:,}; download it again")
        for kind, name in {tensor.type: name for name, tensor in self.tensors.items()}.items():
            try:
                dequantize(np.zeros(GGML_QUANT_SIZES[kind][1], np.uint8), kind)
            except NotImplementedError:
                raise ModelError(f"{path}: tensor {name} has type {kind.name}, which the gguf library can't dequantise") from None

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def chunks(self, name: str, multiple: int = 1) -> Iterator[np.ndarray]:
        """The tensor in float32, dequantised by the `gguf` library, some of its first dimension at a time (a multiple of `multiple`)."""
        info = self.tensors[name]
        length = info.shape[0] if info.shape else 1
        size = max(multiple, CHUNK // int(np.prod(info.shape[1:])) // multiple * multiple)
        raw = np.frombuffer(self._map, dtype=np.uint8, count=info.nbytes, offset=info.offset).reshape(length, -1)
        for begin in range(0, length, size):
            part = raw[begin : begin + size]
            yield _dequantised(part, (len(part), *info.shape[1:]), info.type)


def _dequantised(raw: np.ndarray, shape: tuple[int, ...], kind: GGMLQuantizationType) -> np.ndarray:
    if kind == GGMLQuantizationType.F32:
        return raw.view(np.float32).reshape(shape)
    # the library takes 16 rows at a time, which are few values to call it for; a chunk that is larger than asked for is left to it
    rows = shape[:-1] if np.prod(shape) > CHUNK else (1,)
    return dequantize(raw.reshape(*rows, -1), kind).reshape(shape)


class _Header:
    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def read(self) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
        if self.data[:4] != b"GGUF":
            raise ValueError(f"it begins with {self.data[:4]!r}")
        self.at = 4
        version = self._scalar("I")
        if version not in (2, 3):
            raise ValueError(f"version {version}, expected 2 or 3")
        num_tensors, num_keys = self._scalar("Q"), self._scalar("Q")
        metadata = {self._string(): self._value(GGUFValueType(self._scalar("I"))) for _ in range(num_keys)}
        found = [(self._string(), self._shape(), GGMLQuantizationType(self._scalar("I")), self._scalar("Q")) for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", 32)
        base = -(-self.at // alignment) * alignment
        return metadata, {name: _info(shape, kind, base + offset) for name, shape, kind, offset in found}

    def _scalar(self, code: str) -> Any:
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def _string(self) -> str:
        size = self._scalar("Q")
        if self.at + size > len(self.data):
            raise ValueError("a string runs past its end")
        self.at += size
        return self.data[self.at - size : self.at].decode("utf-8")

    def _strings(self, size: int) -> list[str]:
        """As `_string` so many times, for the hundreds of thousands of a vocabulary."""
        data, at, read_size, found = self.data, self.at, struct.Struct("<Q").unpack_from, []
        for _ in range(size):
            begin = at + 8
            at = begin + read_size(data, at)[0]
            found.append(data[begin:at].decode("utf-8"))
        if at > len(data):
            raise ValueError("a string runs past its end")
        self.at = at
        return found

    def _shape(self) -> tuple[int, ...]:
        return tuple(self._scalar("Q") for _ in range(self._scalar("I")))[::-1]

    def _value(self, kind: GGUFValueType) -> Any:
        if kind == GGUFValueType.STRING:
            return self._string()
        if kind != GGUFValueType.ARRAY:
            return self._scalar(_SCALARS[kind])
        kind, size = GGUFValueType(self._scalar("I")), self._scalar("Q")
        if size > len(self.data):
            raise ValueError(f"an array of {size} entries")
        if kind == GGUFValueType.STRING:
            return self._strings(size)
        if kind == GGUFValueType.ARRAY:
            return [self._value(kind) for _ in range(size)]
        layout = f"<{size}{_SCALARS[kind]}"
        values = list(struct.unpack_from(layout, self.data, self.at))
        self.at += struct.calcsize(layout)
        return values


def _info(shape: tuple[int, ...], kind: GGMLQuantizationType, offset: int) -> TensorInfo:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return TensorInfo(shape, kind, offset, int(np.prod(shape, dtype=np.int64)) // block * block_bytes)


# mistral's files are llama's, and mixtral's too, with experts
_ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen2moe": "qwen2_moe", "gemma": "gemma", "deepseek": "deepseek"}
# those whose q and k rows llama.cpp stores with the two halves of each head interleaved
PERMUTED = ("llama", "mixtral", "deepseek")


def hf_config(metadata: Mapping[str, Any], tied: bool) -> dict[str, Any]:
    """The file's metadata in the words of Hugging Face's config.json. Raises ModelError for an unknown architecture."""
    arch = metadata.get("general.architecture")
    model_type = _ARCHITECTURES.get(str(arch))
    if model_type is None:
        raise ModelError(f"GGUF architecture {arch!r} is not supported; moe_lm reads: {', '.join(_ARCHITECTURES)}")
    keys = dict(_config_keys(metadata, f"{arch}."))
    if arch == "llama" and keys.get("num_experts"):
        model_type = "mixtral"
    if (scale := metadata.get(f"{arch}.expert_weights_scale", 1.0)) not in (0.0, 1.0):
        raise ModelError(f"GGUF option {arch}.expert_weights_scale = {scale} is not supported")
    if model_type in ("mixtral", "deepseek") and "num_experts" in keys:
        keys["num_local_experts"] = keys["n_routed_experts"] = keys["num_experts"]
    scaling = metadata.get(f"{arch}.rope.scaling.type", "none")
    return {
        "model_type": model_type,
        "tie_word_embeddings": tied,
        "norm_topk_prob": metadata.get(f"{arch}.expert_weights_norm", False),
        "rope_scaling": None if scaling == "none" else {"rope_type": scaling},
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "vocab_size": len(metadata.get("tokenizer.ggml.tokens", ())),
        **keys,
    }


def _config_keys(metadata: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    names = {
        "embedding_length": "hidden_size",
        "block_count": "num_hidden_layers",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "attention.key_length": "head_dim",
        "attention.layer_norm_rms_epsilon": "rms_norm_eps",
        "context_length": "max_position_embeddings",
        "rope.freq_base": "rope_theta",
        "expert_count": "num_experts",
        "expert_used_count": "num_experts_per_tok",
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
        "expert_shared_count": "n_shared_experts",
        "leading_dense_block_count": "first_k_dense_replace",
    }
    for theirs, ours in names.items():
        if prefix + theirs in metadata:
            yield ours, metadata[prefix + theirs]
