"""One spelling and one hash for one value."""

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, no ASCII escapes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def sha256_json(value: Any) -> str:
    """sha256 (hex) of `canonical_json`."""
    return sha256_text(canonical_json(value))


def sha256_text(text: str) -> str:
    """sha256 (hex) of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
