"""Reads a Hugging Face folder: config.json, *.safetensors and the tokenizer's files."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from moe_lm.checkpoint.weights import Weights
from moe_lm.config import from_hf, read_json
from moe_lm.errors import ModelError
from moe_lm.families import family_of
from moe_lm.tokenizer.tokenizer import Tokenizer

SETTINGS = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def files_of(folder: Path) -> list[Path]:
    """The files that a checkpoint consists of, the weights last."""
    return [*(p for name in SETTINGS if (p := folder / name).exists()), *sorted(folder.glob("*.safetensors"))]


def parse(folder: Path) -> tuple[Tokenizer, Weights]:
    """Raises ModelError where a file is missing, damaged or not supported."""
    config = from_hf(read_json(folder / "config.json"))
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise ModelError(f"{folder} holds no *.safetensors file (pickled checkpoints are never loaded)")
    where: dict[str, Any] = {}
    for shard in shards:
        try:
            file = safe_open(shard, "pt")
            where |= dict.fromkeys(file.keys(), file)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{shard} is not a readable safetensors file ({error}); download it again") from None
    return Tokenizer.from_folder(folder), Weights(
        folder,
        config,
        family_of(config.family).hf_names,
        set(where) - ({"lm_head.weight"} if config.tie_word_embeddings else set()),  # a tied head may be stored too
        lambda name: tuple(where[name].get_slice(name).get_shape()),
        lambda name: iter([where[name].get_tensor(name)]),  # mapped, not read: no chunks needed
    )
