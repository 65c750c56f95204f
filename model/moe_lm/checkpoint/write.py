"""A Decoder in memory -> a Hugging Face folder that transformers (and moe_lm) load: one safetensors file a few GB large."""

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from moe_lm.checkpoint.names import hf_pieces
from moe_lm.config import to_hf
from moe_lm.model import Decoder
from moe_lm.tokenizer import Tokenizer


def save(model: Decoder, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, model.safetensors, tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    num_experts = config.moe.num_experts if config.moe else 0
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        pieces = hf_pieces(name, num_experts)
        experts = parameter.data if parameter.ndim == 3 else parameter.data[None]  # [E, ..], be E one or more
        for expert, rows in zip(experts, pieces, strict=True):
            # a copy each: safetensors refuses tensors that share memory
            tensors |= {piece: part.clone() for piece, part in zip(rows, expert.chunk(len(rows)), strict=True)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    dtype = str(model.embed.weight.dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(to_hf(config, dtype), indent=2) + "\n", "utf-8")
    tokenizer.save(folder)
