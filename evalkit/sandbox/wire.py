"""Frames on pipes and sockets: a length of 4 bytes, then plain data as JSON.

Plain data are None, bool, int, float, complex, str, bytes, list, tuple, dict, set and frozenset, and nestings of them; a subclass is
sent as its base. Only data is sent: no class, no code, no identity.
"""

import json
import os
import struct
from collections.abc import Callable
from typing import Any

MAX_FRAME = 16 << 20  # bytes
_HEADER = struct.Struct("!I")
_SMALL = 1 << 63


class Ended(Exception):
    """The other end is gone."""


class Malformed(ValueError):
    """Bytes that are not a valid frame."""


def send(fd: int, value: Any) -> None:
    """Write a frame. Raises what `pack` does, Malformed if it is larger than MAX_FRAME, OSError if the other end is closed."""
    body = pack(value)
    if len(body) > MAX_FRAME:
        raise Malformed(f"{len(body):,} bytes of data; {MAX_FRAME:,} can be passed")
    view = memoryview(_HEADER.pack(len(body)) + body)
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int) -> Any:
    """Read a frame. Raises Ended, or Malformed."""
    (size,) = _HEADER.unpack(_exactly(fd, _HEADER.size))
    if size > MAX_FRAME:
        raise Malformed(f"a frame of {size:,} bytes; {MAX_FRAME:,} can be passed")
    return unpack(_exactly(fd, size))


def _exactly(fd: int, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = os.readv(fd, [view])
        if not count:
            raise Ended
        view = view[count:]
    return data


def pack(value: Any) -> bytes:
    """Plain data as JSON. Raises TypeError for anything else, RecursionError for data that contains itself."""
    return json.dumps(_tagged(value), separators=(",", ":")).encode()


def unpack(body: bytes | bytearray) -> Any:
    """The value that `pack` was given. Raises Malformed for any other JSON."""
    try:
        # ours is ASCII: in other text one character can make all of it four bytes wide
        return json.loads(str(body, "ascii"), object_pairs_hook=_untagged)
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, Malformed) else Malformed(f"{type(error).__name__}: {error}") from None


def _tagged(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    # the base class's methods: whatever a subclass overrides, its real content is sent
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        value = int.__index__(value)
        # large ones in hexadecimal: Python limits the number of decimal digits
        return value if -_SMALL < value < _SMALL else {"i": format(value, "x")}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, complex):
        value = complex.__complex__(value)
        return {"c": [value.real, value.imag]}
    if isinstance(value, bytes):
        return {"b": bytes.hex(value)}
    if isinstance(value, list):
        return [_tagged(item) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return {"t": [_tagged(item) for item in tuple.__iter__(value)]}
    if isinstance(value, dict):
        return {"d": [[_tagged(key), _tagged(item)] for key, item in dict.items(value)]}
    if isinstance(value, set):
        return {"s": [_tagged(item) for item in set.__iter__(value)]}
    if isinstance(value, frozenset):
        return {"f": [_tagged(item) for item in frozenset.__iter__(value)]}
    raise TypeError(f"a {type(value).__name__} is not plain data")


def _untagged(pairs: list[tuple[str, Any]]) -> Any:
    """The value of a JSON object, whose content is a value already: nothing is held twice."""
    try:
        ((tag, content),) = pairs
        if type(content) is not (str if tag in "ib" else list):
            raise ValueError(f"a {type(content).__name__} with the tag {tag[:20]!r}")
        return _DECODERS[tag](content)
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "i": lambda text: int(text, 16),
    "c": lambda parts: complex(*parts),
    "b": bytes.fromhex,
    "t": tuple,
    "d": dict,
    "s": set,
    "f": frozenset,
}
