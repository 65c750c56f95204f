"""Frozen dataclasses <-> JSON and TOML: how records, run.toml and published tables are read and written."""

from evalkit.codec.json_text import RepeatedKey, is_text, json_values, parse_json
from evalkit.codec.objects import OPTIONAL, Misfit, decode, decode_given, decode_toml, encode, key, shown
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
