"""Writes a Decoder as a Hugging Face folder, which transformers and moe_lm load, in safetensors files of at most a few GB."""

import json
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from moe_lm.checkpoint.shard_writer import SHARD_BYTES, ShardWriter
from moe_lm.config import ModelConfig, to_hf
from moe_lm.families import family_of
from moe_lm.families.names import pieces
from moe_lm.model import Decoder
from moe_lm.tokenizer.tokenizer import Tokenizer


def save(model: Decoder, tokenizer: Tokenizer, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write config.json, the weights, tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Weights larger than `shard_bytes` are split over several files with an index. They are copied one file at a time, so the extra
    memory is that of one file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "config.json"
    dtype = str(model.embed.weight.dtype).removeprefix("torch.")
    settings.write_text(json.dumps(to_hf(model.config, dtype), indent=2) + "\n", "utf-8")
    shards = ShardWriter(folder, settings, shard_bytes)
    for parameter, value in model.named_parameters():
        for name, part in named_parts(model.config, parameter, value.data):
            shards.add(name, part)
    shards.close()
    tokenizer.save(folder)


def named_parts(config: ModelConfig, name: str, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The checkpoint's tensors that a parameter of the decoder is made of, as views of it."""
    names = pieces(name, family_of(config.family).hf_names, config.moe.num_experts if config.moe else 0)
    matrices = parameter if parameter.ndim == 3 else parameter[None]  # [E, ..] in either case
    for matrix, rows in zip(matrices, names, strict=True):
        yield from zip(rows, matrix.chunk(len(rows)), strict=True)
