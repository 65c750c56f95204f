"""The keys tokenizer.ggml.* of a GGUF file, checked: tokens, their kinds, scores or merges, and the ids of special tokens."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from moe_lm.errors import ModelError
from moe_lm.files import shown

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type
NO_TEXT = (UNKNOWN, CONTROL, BYTE)
_KINDS = range(7)
_NO_ID = (-1, 2**32 - 1)  # how some files say that there is none

Metadata = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every method raises ModelError, naming the key, where its value is missing or wrong."""

    metadata: Metadata
    tokens: list[str]
    ids: dict[str, int]
    kinds: list[int]

    @classmethod
    def read(cls, metadata: Metadata) -> "Vocabulary":
        # llama.cpp gives tokens without a text such names, too
        tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(_texts(metadata, "tokens"))]
        ids = {token: i for i, token in enumerate(tokens)}
        if not tokens:
            raise ModelError("tokenizer.ggml.tokens is empty; convert the model again")
        if len(ids) < len(tokens):
            token, i = next((token, i) for i, token in enumerate(tokens) if ids[token] != i)
            raise ModelError(f"tokenizer.ggml.tokens has {shown(token)} twice, as {i} and {ids[token]}; convert the model again")
        kinds = _numbers(metadata, "token_type", len(tokens))
        if wrong := [kind for kind in kinds if kind not in _KINDS]:
            raise ModelError(f"tokenizer.ggml.token_type holds {shown(wrong[0])}, expected 0 to 6; convert the model again")
        return cls(metadata, tokens, ids, kinds)

    def scores(self) -> list[float]:
        """One for each token: pieces with the greater are merged first."""
        found = _numbers(self.metadata, "scores", len(self.tokens))
        if wrong := [score for score in found if not math.isfinite(score)]:
            raise ModelError(f"tokenizer.ggml.scores holds {wrong[0]}; download the file again")
        return found

    def merges(self) -> list[tuple[str, str]]:
        """The pairs that are merged, the first of them first."""
        texts = _texts(self.metadata, "merges", most=sum(map(len, self.tokens)))  # one for each place where a token may be cut
        ids, parts = self.ids, (text.partition(" ") for text in texts)
        found = [(left, right) for left, blank, right in parts if blank and left in ids and right in ids and left + right in ids]
        if len(found) < len(texts):
            wrong = next(text for text, pair in zip_longest(texts, found) if not pair or text != " ".join(pair))
            raise ModelError(f"tokenizer.ggml.merges has {shown(wrong)}, which is not two tokens that make a third")
        return found

    def flag(self, name: str, default: bool) -> bool:
        value = self.metadata.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(value, bool):
            raise ModelError(f"tokenizer.ggml.{name} is {shown(value)}, expected true or false; convert the model again")
        return value

    def id(self, name: str, default: int | None = None) -> int | None:
        """The id of a special token, such as "bos"; the default where the file does not say, or says that there is none."""
        return self._checked(f"tokenizer.ggml.{name}_token_id", self.metadata.get(f"tokenizer.ggml.{name}_token_id"), default)

    def ends(self) -> list[int]:
        """The ids that end a text, a turn or a message, the end of text first."""
        found = [self.id(name) for name in ("eos", "eot", "eom")]
        more = self.metadata.get("tokenizer.ggml.eos_token_ids", ())
        if isinstance(more, str) or not hasattr(more, "__len__") or len(more) > len(self.tokens):
            raise ModelError(f"tokenizer.ggml.eos_token_ids is {shown(more)}, expected a list of token ids; convert the model again")
        found += [self._checked("tokenizer.ggml.eos_token_ids", each, None) for each in _plain(more)]
        return list(dict.fromkeys(i for i in found if i is not None))

    def _checked(self, key: str, value: Any, default: int | None) -> int | None:
        if value is None or (type(value) is int and value in _NO_ID):
            return default if default is None or default < len(self.tokens) else None
        if type(value) is not int or not 0 <= value < len(self.tokens):
            raise ModelError(f"{key} is {shown(value)}, expected a token id below {len(self.tokens):,}; convert the model again")
        return value


def _plain(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _list(metadata: Metadata, name: str, types: set[type], size: int | None = None, most: int | None = None) -> list[Any]:
    """A list of `size` entries of these types, or of `most` at the most, which is known before any of them is read."""
    key, found = f"tokenizer.ggml.{name}", metadata.get(f"tokenizer.ggml.{name}")
    if found is None:
        raise ModelError(f"the GGUF's tokenizer has no {key}; convert the model again with a current llama.cpp")
    if isinstance(found, str) or not hasattr(found, "__len__"):
        raise ModelError(f"{key} is {shown(found)}, expected a list; convert the model again")
    if size is not None and len(found) != size:
        raise ModelError(f"{key} has {len(found):,} entries for {size:,} tokens; convert the model again")
    if most is not None and len(found) > most:
        raise ModelError(f"{key} has {len(found):,} entries, at most {most:,} make sense; convert the model again")
    try:
        values = _plain(found)
    except UnicodeDecodeError as error:
        raise ModelError(f"{key} is not UTF-8 ({error.reason}); download the file again") from None
    if set(map(type, values)) - types:
        wrong = [value for value in values if type(value) not in types]
        raise ModelError(f"{key} holds {shown(wrong[0])}, which is of another type; convert the model again")
    return values


def _texts(metadata: Metadata, name: str, most: int | None = None) -> list[str]:
    return _list(metadata, name, {str}, most=most)


def _numbers(metadata: Metadata, name: str, size: int) -> list[Any]:
    return _list(metadata, name, {int, float}, size)
