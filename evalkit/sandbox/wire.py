"""Frames on pipes and sockets: a length of 4 bytes, then JSON. And plain data as JSON.

`encode` and `decode` handle None, bool, int, float, complex, str, bytes, list, tuple, dict, set and frozenset, and nestings of
them; a subclass is sent as its base. Only data is sent: no class, no code, no identity.
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


def send(fd: int, message: Any) -> None:
    """Write a frame. Raises Malformed if it is larger than MAX_FRAME, OSError if the other end is closed."""
    body = json.dumps(message, separators=(",", ":")).encode()
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
    return _parse(_exactly(fd, size))


def _exactly(fd: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            raise Ended
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None


def encode(value: Any) -> Any:
    """Plain data as JSON. Raises TypeError for anything else, RecursionError for data that contains itself."""
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
        return {"c": [value.real, value.imag]}
    if isinstance(value, bytes):
        return {"b": bytes.hex(value)}
    if isinstance(value, list):
        return [encode(item) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return {"t": [encode(item) for item in tuple.__iter__(value)]}
    if isinstance(value, dict):
        return {"d": [[encode(key), encode(item)] for key, item in dict.items(value)]}
    if isinstance(value, set):
        return {"s": [encode(item) for item in set.__iter__(value)]}
    if isinstance(value, frozenset):
        return {"f": [encode(item) for item in frozenset.__iter__(value)]}
    raise TypeError(f"a {type(value).__name__} is not plain data")


def decode(value: Any) -> Any:
    """The value that `encode` was given. Raises Malformed for any other JSON."""
    if value is None or type(value) in (bool, int, str, float):
        return value
    try:
        if type(value) is list:
            return [decode(item) for item in value]
        tag, content = value.popitem()
        if value:
            raise ValueError("more than one tag")
        return _DECODERS[tag](content)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "i": lambda text: int(text, 16),
    "c": lambda parts: complex(*parts),
    "b": bytes.fromhex,
    "t": lambda items: tuple(decode(item) for item in items),
    "d": lambda pairs: {decode(key): decode(item) for key, item in pairs},
    "s": lambda items: {decode(item) for item in items},
    "f": lambda items: frozenset(decode(item) for item in items),
}
