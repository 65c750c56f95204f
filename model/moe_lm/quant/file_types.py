"""Which type each tensor of a quantised GGUF file has: the choice of llama.cpp's quantize (src/llama-quant.cpp), without an importance
matrix.

Norms, biases and routers stay as they are. The output matrix (or the embedding, where that is the output too) is finer than the rest;
the _S and _M mixtures make some layers' values and down projections finer, too; and a row that is no whole number of blocks gets a type
with smaller blocks.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

_LAYER = re.compile(r"blk\.(\d+)\.")
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}  # blocks of 32 weights in place of 256
_PLAIN = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class FileType:
    """What most matrices are (`kind`), and llama.cpp's number for the whole (general.file_type)."""

    kind: str
    number: LlamaFileType

    @property
    def name(self) -> str:
        """llama.cpp's name: Q4_K_S."""
        return self.number.name.partition("_")[2]


FILE_TYPES: Mapping[str, FileType] = {
    "f32": FileType("F32", LlamaFileType.ALL_F32),
    "f16": FileType("F16", LlamaFileType.MOSTLY_F16),
    "bf16": FileType("BF16", LlamaFileType.MOSTLY_BF16),
    "q8_0": FileType("Q8_0", LlamaFileType.MOSTLY_Q8_0),
    "q4_0": FileType("Q4_0", LlamaFileType.MOSTLY_Q4_0),
    "q4_1": FileType("Q4_1", LlamaFileType.MOSTLY_Q4_1),
    "q5_0": FileType("Q5_0", LlamaFileType.MOSTLY_Q5_0),
    "q5_1": FileType("Q5_1", LlamaFileType.MOSTLY_Q5_1),
    "q4_k": FileType("Q4_K", LlamaFileType.MOSTLY_Q4_K_S),
    "q4_k_m": FileType("Q4_K", LlamaFileType.MOSTLY_Q4_K_M),
    "q5_k": FileType("Q5_K", LlamaFileType.MOSTLY_Q5_K_S),
    "q5_k_m": FileType("Q5_K", LlamaFileType.MOSTLY_Q5_K_M),
    "q6_k": FileType("Q6_K", LlamaFileType.MOSTLY_Q6_K),
}


@dataclass(frozen=True, slots=True)
class Mixture:
    """What of a model decides about its tensors' types: see llama.cpp's llama_tensor_get_type_impl."""

    layers: int
    experts: int
    tied: bool  # is there no output matrix beside the embedding?
    shared_values: bool = False  # llama.cpp's "70B": 80 layers of llama or qwen2, whose heads share keys and values

    @classmethod
    def of(cls, architecture: str, names: Iterable[str], layers: int, experts: int, heads: int, kv_heads: int) -> "Mixture":
        large = layers == 80 and experts != 8 and (architecture == "qwen2" or (architecture == "llama" and heads != kv_heads))
        return cls(layers, experts, "output.weight" not in names, large)


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Is it one of the tensors that have the file's type? Not norms, biases, routers, nor what has a single row."""
    is_kept = "_norm.weight" in name or "ffn_gate_inp.weight" in name or not name.endswith("weight")
    return not is_kept and any(size > 1 for size in shape[:-1])


def fitting(kind: str, columns: int) -> str:
    """The type itself where rows of `columns` weights are whole blocks of it, else one with smaller blocks, else F16."""
    if columns % _block(kind):
        kind = _FALLBACK.get(kind, kind)
    return "F16" if columns % _block(kind) else kind


def kind_of(name: str, shape: tuple[int, ...], file_type: FileType, mixture: Mixture) -> str:
    """The type of a matrix (see `is_matrix`) in a file of this type, if its rows fit (see `fitting`)."""
    kind, number = file_type.kind, file_type.number
    if kind in _PLAIN:
        return kind
    if name == "output.weight" or (mixture.tied and name == "token_embd.weight"):
        return "Q8_0" if kind == "Q8_0" or shape[-1] % _block(kind) else "Q6_K"
    match = _LAYER.match(name)
    layer = int(match[1]) if match else 0
    small, medium = number == LlamaFileType.MOSTLY_Q4_K_S, number in (LlamaFileType.MOSTLY_Q4_K_M, LlamaFileType.MOSTLY_Q5_K_M)
    if "attn_v.weight" in name:
        if mixture.experts == 8:
            return "Q8_0"
        if medium and _has_more_bits(layer, mixture.layers):
            return "Q6_K"
        return "Q5_K" if (small and layer < 4) or (kind == "Q4_K" and mixture.shared_values) else kind
    if "attn_k.weight" in name and mixture.experts == 8:
        return "Q8_0"
    if "attn_output.weight" in name and mixture.experts == 8 and kind == "Q4_K":
        return "Q5_K"
    if "ffn_down" in name:
        if medium and _has_more_bits(layer, mixture.layers):
            return "Q6_K"
        return "Q5_K" if small and layer < mixture.layers // 8 else kind
    return kind


def _has_more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and every third of those between them."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _block(kind: str) -> int:
    return GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]
