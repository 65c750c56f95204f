"""Reads a Hugging Face folder: config.json, the weights' safetensors files (see `moe_lm.checkpoint.shards`) and the tokenizer's files."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from moe_lm.checkpoint.quantized.blocks import WEIGHTS
from moe_lm.checkpoint.quantized.scheme import FILES as QUANTIZATION_FILES
from moe_lm.checkpoint.quantized.scheme import Scheme, scheme_of
from moe_lm.checkpoint.quantized.table import QuantizedTable
from moe_lm.checkpoint.shards import INDEX, SINGLE, TensorTable, find_shards
from moe_lm.checkpoint.weights import Weights
from moe_lm.config import from_hf
from moe_lm.errors import ModelError
from moe_lm.families import family_of
from moe_lm.families.multimodal import multimodal, text_config
from moe_lm.families.names import HF_STACKED_EXPERTS
from moe_lm.files import is_there, read_json
from moe_lm.quant.kinds import group_kind
from moe_lm.tokenizer.folder import FILES as TOKENIZER_FILES
from moe_lm.tokenizer.tokenizer import Tokenizer

SETTINGS = ("config.json", *TOKENIZER_FILES, *QUANTIZATION_FILES)
# what files hold beside parameters, and transformers leaves out: the rotary embedding's frequencies, which older versions saved
BUFFERS = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


def files_of(folder: Path) -> list[Path]:
    """The files that a checkpoint consists of, the weights last. Raises ModelError where it is not supported or lacks its weights."""
    raw = read_json(folder / "config.json")
    from_hf(raw)  # first: the weights of an unsupported model need not be there
    _scheme(folder, raw)
    if is_there(folder / "adapter_config.json"):
        raise ModelError(f"{folder} holds an adapter (adapter_config.json), which moe_lm does not apply; merge it into the model's weights")
    shards = find_shards(folder)
    index = [folder / INDEX] if shards.index else []
    return [*(path for name in SETTINGS if is_there(path := folder / name)), *index, *shards.files]


def is_quantized(folder: Path) -> bool:
    """Does the folder say that its weights are quantised? Raises ModelError where it says so in a way that is not read."""
    return _scheme(folder, read_json(folder / "config.json")) is not None


def kind_of(folder: Path, inputs: int) -> str | None:
    """Of `moe_lm.quant.kinds`, what most of its weights are computed in, as its options say, where they have so many inputs.

    None where they are expanded. Raises ModelError as `is_quantized` does.
    """
    scheme = _scheme(folder, read_json(folder / "config.json"))
    bits, size = (scheme and scheme.typical) or (0, 0)
    size = math.gcd(inputs, inputs if size == -1 else size)
    if bits == 8:
        return "Q8_0" if size % WEIGHTS == 0 else None
    return group_kind(size) if bits else None


def _scheme(folder: Path, raw: Mapping[str, Any]) -> Scheme | None:
    return scheme_of(text_config(raw), folder)


def parse(folder: Path) -> tuple[Tokenizer, Weights]:
    """Raises ModelError where a file is missing, damaged or not supported."""
    raw = read_json(folder / "config.json")
    config = from_hf(raw)
    shards = find_shards(folder)
    plain, scheme = TensorTable(shards), _scheme(folder, raw)
    table = QuantizedTable(plain, scheme) if scheme else plain
    table.refuse_other_dtypes()
    notices = [*table.notices]
    names, tensors = family_of(config.family).hf_names, table.names()
    if outer := multimodal(raw):
        names, whole = outer.names(names), len(tensors)
        tensors = {name for name in tensors if not name.startswith(outer.other_tensors)}
        notices.append(f"the text model alone is read: {whole - len(tensors)} tensors of model_type {raw['model_type']} are for images")
    if shards.index and SINGLE not in shards.index.values() and (folder / SINGLE).exists():
        notices.append(f"{SINGLE} is not read: {INDEX} names other files (transformers reads it in their place)")
    if any(name.endswith(".mlp.experts.gate_up_proj") for name in tensors):
        names = {**names, **HF_STACKED_EXPERTS}
    embed, head = (f"{names[module]}.weight" for module in ("embed", "lm_head"))
    if config.tie_word_embeddings and head in tensors:  # as transformers 5 does, in all three cases
        if embed not in tensors:
            names = {**names, "embed": names["lm_head"]}
        elif table.equal(embed, head):
            tensors.remove(head)
        else:
            config = replace(config, tie_word_embeddings=False)
            notices.append(
                f"config.json says tie_word_embeddings true, but {head} differs from {embed}; "
                f"{head} is used, as transformers 5 does (earlier versions use {embed})"
            )
    return Tokenizer.from_folder(folder), Weights(
        folder,
        config,
        names,
        {name for name in tensors if not BUFFERS.fullmatch(name)},
        table.shape,
        table.chunks,
        tuple(notices),
        table.stored(),
        table.quantized,
        table.is_kept,
        table.width,
    )
