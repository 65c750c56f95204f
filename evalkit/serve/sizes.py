"""Sizes of memory, as options take them."""

import re

from evalkit.errors import EvalkitError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


def bytes_of(text: str, option: str) -> int:
    """The bytes of "800MB", "1.5G" or "2GiB" (k, M, G, T: powers of 1000; Ki, Mi, Gi, Ti: of 1024).

    Raises EvalkitError, which names the option.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?([kmgt]?i?)b?", text.strip(), re.IGNORECASE | re.ASCII)
    if not found or found[2].lower() not in UNITS:
        raise EvalkitError(f"{option} is {text!r}; give a size such as 800MB, 1.5GB or 2GiB")
    size = int(float(found[1]) * UNITS[found[2].lower()])
    if not size:
        raise EvalkitError(f"{option} is {text!r}; give more than nothing")
    return size
