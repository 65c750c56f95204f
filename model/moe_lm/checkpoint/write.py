"""Writes a Decoder as a Hugging Face folder, which transformers and moe_lm load, in safetensors files of at most a few GB."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from moe_lm.config import to_hf
from moe_lm.families import family_of
from moe_lm.families.names import pieces
from moe_lm.model import Decoder
from moe_lm.tokenizer.tokenizer import Tokenizer

SHARD_BYTES = 2 << 30


def save(model: Decoder, tokenizer: Tokenizer, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write config.json, the weights, tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Weights larger than `shard_bytes` are split over several files with an index. They are copied one file at a time, so the extra
    memory is that of one file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "config.json"
    dtype = str(model.embed.weight.dtype).removeprefix("torch.")
    settings.write_text(json.dumps(to_hf(model.config, dtype), indent=2) + "\n", "utf-8")
    shards = list(_shards(model, shard_bytes))
    index: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
        # a copy each: safetensors refuses tensors that share memory
        save_file({piece: part.clone() for piece, part in shard.items()}, folder / name, metadata={"format": "pt"})
        shutil.copymode(settings, folder / name)  # safetensors makes its files readable by the owner alone
        index |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        total = sum(p.nbytes for p in model.parameters())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2)
        (folder / "model.safetensors.index.json").write_text(text + "\n", "utf-8")
    tokenizer.save(folder)


def _shards(model: Decoder, shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Views of the model's memory under their checkpoint names, in groups of at most `shard_bytes` (or one tensor)."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, part in _tensors(model):
        if shard and size + part.nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = part
        size += part.nbytes
    yield shard


def _tensors(model: Decoder) -> Iterator[tuple[str, Tensor]]:
    config = model.config
    names, num_experts = family_of(config.family).hf_names, config.moe.num_experts if config.moe else 0
    for name, parameter in model.named_parameters():
        experts = parameter.data if parameter.ndim == 3 else parameter.data[None]  # [E, ..] in either case
        for expert, rows in zip(experts, pieces(name, names, num_experts), strict=True):
            yield from zip(rows, expert.chunk(len(rows)), strict=True)
