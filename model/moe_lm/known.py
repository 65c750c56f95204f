"""Real models' configurations by name, in Hugging Face's config.json words: configs/NAME.json. No weights, no torch.

They are the base models' official config.json files, less what says nothing about the model (versions, dropout, initialisation).
"""

from pathlib import Path

from moe_lm.config import ModelConfig, from_hf
from moe_lm.errors import ModelError
from moe_lm.files import read_json

_FOLDER = Path(__file__).parent / "configs"


def names() -> list[str]:
    """The names of the known configurations."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def config(name: str) -> ModelConfig:
    """A known configuration. Raises ModelError, with the known names, for any other name."""
    if name not in names():
        raise ModelError(f"no configuration is named {name!r}; known: {', '.join(names())}")
    return from_hf(read_json(_FOLDER / f"{name}.json"))


def in_folder(folder: Path) -> ModelConfig:
    """The configuration in a checkpoint's folder. Raises ModelError where config.json is missing, damaged or unsupported."""
    return from_hf(read_json(folder / "config.json"))
