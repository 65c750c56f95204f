"""The values of a quantization_config, checked one by one."""

from collections.abc import Mapping
from typing import Any

from moe_lm.errors import ModelError, Unsupported
from moe_lm.files import shown
from moe_lm.kinds import Kind, whole

Raw = Mapping[str, Any]

GROUP_SIZE = Kind("-1 or an integer from 1", lambda value: type(value) is int and (value == -1 or 0 < value < 2**31))
BITS = whole(1, 32)


def are_objects(value: Any) -> bool:
    """Is it an object whose values are objects?"""
    return isinstance(value, dict) and all(isinstance(each, dict) for each in value.values())


def option(raw: Raw, names: str, kind: Kind, default: Any = None) -> Any:
    """The value of an option that goes by any of several names; a missing one and null are the default.

    Raises ModelError for a value of another kind, where there is none and no default, and where two names have different values.
    """
    given = {name: raw[name] for name in names.split() if raw.get(name) is not None}
    for name, value in given.items():
        if not kind.holds(value):
            raise ModelError(f"quantization_config: {name} = {shown(value)} is not valid: it must be {kind.words}")
    values = list(given.values())
    if any(value != values[0] for value in values):
        raise ModelError(f"quantization_config: {' and '.join(given)} mean the same, and differ: {' and '.join(map(shown, values))}")
    if not values and default is None:
        raise ModelError(f"quantization_config has no {names.split()[0]}; is it complete?")
    return values[0] if values else default


def one_of(raw: Raw, names: str, kind: Kind, supported: tuple[Any, ...], default: Any = None) -> Any:
    """As `option`. Raises Unsupported for a value that is not among those `supported`."""
    if (value := option(raw, names, kind, default)) not in supported:
        raise unsupported(f"{names.split()[0]} = {shown(value)}", "only " + " or ".join(map(repr, supported)))
    return value


def unsupported(what: str, instead: str) -> Unsupported:
    return Unsupported(f"quantization_config: {what} is not supported, {instead}")
