"""Which layers see only the last tokens of their context: config.json's sliding_window and layer_types.

They are read as each family's model in transformers reads them (and AutoModel, which takes a mistral with layer_types for a ministral).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moe_lm.errors import ModelError

FULL, SLIDING = "full_attention", "sliding_attention"  # the entries of config.json's layer_types
Raw = Mapping[str, Any]


def every_layer(layer: int, values: Raw) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """How a family's config.json says which layers have a sliding window, and how long it is."""

    slides: Callable[[int, Raw], bool] = every_layer  # (layer, config.json with its defaults): has it a window where layer_types is absent?
    layer_types: bool = True  # does the family's model follow layer_types?
    switch: str | None = None  # the key that must be true for a window to apply
    required: bool = False  # is sliding_window = null an error, and not the absence of a window?


# Qwen's dense models, and the keys that all of Qwen's have
UPPER_LAYERS = SlidingWindow(lambda layer, values: layer >= values["max_window_layers"], switch="use_sliding_window")
QWEN_DEFAULTS: Raw = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}


def read(values: Raw, rule: SlidingWindow | None, family: str) -> tuple[int | None, tuple[int, ...]]:
    """The window, or None, and the layers that it does not limit, of a config.json with its defaults filled in.

    Raises ModelError where the family's model would not compute what the file says.
    """
    window, count, given = _window(values, rule, family), values["num_hidden_layers"], values["layer_types"]
    types = [SLIDING if rule and window is not None and rule.slides(layer, values) else FULL for layer in range(count)]
    if given is not None:
        _check(given, count)
        followed = rule is not None and rule.layer_types and (window is not None or SLIDING not in given)
        for layer, (kind, computed) in enumerate(zip(given, types, strict=True)):
            if kind != computed and not followed:
                raise ModelError(
                    f"config option layer_types has {kind} for layer {layer}, which model_type {family} computes as {computed}"
                    + (" without a sliding_window" if window is None and rule else "")
                )
        types = given
    return window, () if window is None else tuple(layer for layer, kind in enumerate(types) if kind == FULL)


def write(window: int | None, full_attention_layers: tuple[int, ...], count: int, rule: SlidingWindow) -> dict[str, Any]:
    """The keys of config.json from which `read` gives the same window and layers."""
    raw: dict[str, Any] = {"sliding_window": window}
    if rule.switch:
        raw[rule.switch] = window is not None
    # without layer_types the family's own rule decides; only that of all layers is the same for every model
    if window is not None and (full_attention_layers or rule.slides is not every_layer):
        raw["layer_types"] = [FULL if layer in full_attention_layers else SLIDING for layer in range(count)]
    return raw


def _window(values: Raw, rule: SlidingWindow | None, family: str) -> int | None:
    window = values["sliding_window"]
    if rule and rule.switch and not values[rule.switch]:
        return None  # whatever sliding_window is: transformers writes null or 0
    if window is None and not (rule and rule.required):
        return None
    if type(window) is not int or window < 1:
        raise ModelError(f"config option sliding_window = {window!r} is not a positive number of tokens (model_type {family})")
    if rule:
        return window
    if window < values["max_position_embeddings"]:
        raise ModelError(
            f"config option sliding_window = {window} is not supported for model_type {family}, "
            "whose attention has no window; set it to null if the model was trained without one"
        )
    return None


def _check(layer_types: Any, count: int) -> None:
    if not isinstance(layer_types, list) or len(layer_types) != count:
        raise ModelError(f"config option layer_types must be a list with an entry for each of the {count} layers (num_hidden_layers)")
    for layer, kind in enumerate(layer_types):
        if kind not in (FULL, SLIDING):
            raise ModelError(f"config option layer_types has {kind!r} for layer {layer}; moe_lm computes {FULL} and {SLIDING}")
