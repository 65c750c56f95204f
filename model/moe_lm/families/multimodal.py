"""Checkpoints of a text model and an image encoder, of which moe_lm runs the text model: a text passes through nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe_lm.errors import ModelError, Unsupported
from moe_lm.files import shown
from moe_lm.kinds import OBJECT

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Multimodal:
    """Where a `model_type` of config.json has its text model, and what is left out beside it."""

    text_model_type: str
    prefix: str  # of the text model's tensors
    other_tensors: tuple[str, ...]  # how the names of the tensors begin that are left out
    other_keys: frozenset[str]  # of config.json

    def names(self, hf_names: Mapping[str, str]) -> dict[str, str]:
        """The text model's table of names (see `moe_lm.families.names`) in this checkpoint."""
        return {module: self.prefix + name for module, name in hf_names.items()}


MULTIMODAL: Mapping[str, Multimodal] = {
    "gemma3": Multimodal(
        "gemma3_text",
        "language_model.",
        ("vision_tower.", "multi_modal_projector."),
        frozenset({"boi_token_index", "eoi_token_index", "image_token_index", "initializer_range", "mm_tokens_per_image", "vision_config"}),
    )
}


def multimodal(raw: Raw) -> Multimodal | None:
    """What `MULTIMODAL` says of a config.json; None for a text model's."""
    model_type = raw.get("model_type")
    return MULTIMODAL.get(model_type) if isinstance(model_type, str) else None


def text_config(raw: Raw) -> Raw:
    """The text model's config.json in a multimodal one; any other as it is. Raises ModelError where it has none of the right kind.

    What stands beside it (tie_word_embeddings, ends of text, a quantization) holds for the text model, too.
    """
    outer = multimodal(raw)
    if outer is None:
        return raw
    inner = raw.get("text_config")
    if not OBJECT.holds(inner):
        raise ModelError(f"config option text_config = {shown(inner)} is not valid: it must be {OBJECT.words}")
    assert isinstance(inner, Mapping)
    if inner.get("model_type", outer.text_model_type) != outer.text_model_type:
        raise Unsupported(
            f"config option text_config.model_type = {shown(inner['model_type'])} is not supported, only {outer.text_model_type!r}"
        )
    beside = {key: value for key, value in raw.items() if key not in outer.other_keys | {"text_config"}}
    return {**inner, **beside, "model_type": outer.text_model_type}
