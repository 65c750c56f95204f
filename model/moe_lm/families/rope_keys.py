"""Where config.json has the rotary embedding's values: at its top, in rope_scaling, or in rope_parameters, for all layers or by type."""

from collections.abc import Mapping
from typing import Any

from moe_lm.errors import ModelError, Unsupported
from moe_lm.families.sliding_window import FULL, SLIDING
from moe_lm.files import shown
from moe_lm.kinds import OBJECT

Raw = Mapping[str, Any]


def flat(raw: Raw) -> dict[str, Any]:
    """A config.json with rope_theta at its top, and without rope_parameters.

    transformers 5 writes rope_parameters = {rope_type, rope_theta, ..}; earlier versions rope_theta and rope_scaling, which transformers
    takes where there are both; what is written inside goes before what is written beside it.
    """
    found = {key: value for key, value in raw.items() if not (key == "rope_theta" and value is None)}
    parameters = found.pop("rope_parameters", None)
    inner = found["rope_scaling"] = found.get("rope_scaling") or parameters or {}
    return found | {key: inner[key] for key in ("rope_theta", "partial_rotary_factor") if inner.get(key) is not None}


def flat_by_layer_type(raw: Raw) -> dict[str, Any]:
    """The same where layers with a sliding window have frequencies of their own: rope_local_base_freq is at the top, too.

    transformers 5 writes rope_parameters = {layer type: {rope_type, rope_theta}}; earlier versions rope_theta, rope_scaling and
    rope_local_base_freq, of which rope_scaling is for the layers without a window. Raises ModelError for anything else.
    """
    parameters = raw.get("rope_parameters") or {}
    if unknown := sorted(parameters.keys() - {FULL, SLIDING}):
        raise Unsupported(
            f"config option rope_parameters.{shown(unknown[0])[1:-1]} = {shown(parameters[unknown[0]])} is not known to moe_lm "
            f"(model_type {raw['model_type']}), only {FULL} and {SLIDING}"
        )
    for kind, values in parameters.items():
        if not OBJECT.or_null().holds(values):
            raise ModelError(f"config option rope_parameters.{kind} = {shown(values)} is not valid: it must be {OBJECT.or_null().words}")
    local = parameters.get(SLIDING) or {}
    for key in sorted(local.keys() - {"rope_theta"}):
        if (key, local[key]) != ("rope_type", "default"):
            raise Unsupported(
                f"config option rope_parameters.{SLIDING}.{shown(key)[1:-1]} = {shown(local[key])} is not supported, only rope_type default"
            )
    found = flat(dict(raw) | {"rope_parameters": None, "rope_scaling": (parameters.get(FULL) or {}) | (raw.get("rope_scaling") or {})})
    return found | {"rope_local_base_freq": local["rope_theta"]} if "rope_theta" in local else found
