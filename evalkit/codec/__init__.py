"""Frozen dataclasses <-> JSON and TOML: how records, run.toml and published tables are read and written."""

from evalkit.codec.objects import (
    OPTIONAL,
    Misfit,
    RepeatedKey,
    decode,
    decode_given,
    decode_toml,
    encode,
    is_text,
    json_values,
    key,
    parse_json,
    shown,
)
from evalkit.codec.toml_file import TomlFile

__all__ = [
    "OPTIONAL",
    "Misfit",
    "RepeatedKey",
    "TomlFile",
    "decode",
    "decode_given",
    "decode_toml",
    "encode",
    "is_text",
    "json_values",
    "key",
    "parse_json",
    "shown",
]
