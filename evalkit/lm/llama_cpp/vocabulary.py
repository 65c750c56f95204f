"""llama.cpp's own tokenizer, for files whose tokenizer moe_lm does not read."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.lm.llama_cpp.context import Model


class GgmlTokenizer:
    """As `moe_lm.tokenizer.tokenizer.Tokenizer`: special tokens written in a text are recognised, and BOS is added at most once."""

    def __init__(self, model: Model, metadata: Mapping[str, Any]):
        """`model` may be a vocabulary alone. Raises EvalkitError for a chat template that is no text."""
        self._library, self._pointer = model.library, model.vocabulary
        self._model = model  # owns the vocabulary
        lib, ids = self._library, range(model.vocab_size)
        template = metadata.get("tokenizer.chat_template")
        if not isinstance(template, str | None):
            raise EvalkitError(f"{model.path}: tokenizer.chat_template is not a text; convert the model again")
        self.chat_template = template
        # where a file names none, llama.cpp takes ids that are right for the first models of that kind alone
        assumed = {
            i for name in ("bos", "eos") if f"tokenizer.ggml.{name}_token_id" not in metadata and (i := self._special(name)) is not None
        }
        bos, eos = (None if (i := self._special(name)) in assumed else i for name in ("bos", "eos"))
        self.bos_token, self.eos_token = (self._name(i) if i is not None else "" for i in (bos, eos))
        self.bos_id = bos if bos is not None and lib.llama_vocab_get_add_bos(self._pointer) else None
        self.prefix_id = self.bos_id if self.bos_id is not None else eos
        self.stop_ids = frozenset(i for i in ids if lib.llama_vocab_is_eog(self._pointer, i)) - assumed
        self.special = {i: self._name(i) for i in ids if lib.llama_vocab_is_control(self._pointer, i)}
        self._sha256 = hashlib.sha256()
        for key in sorted(key for key in metadata if key.startswith("tokenizer.")):
            value = metadata[key]
            self._sha256.update(repr((key, value if isinstance(value, str | int | float) else [*value])).encode())

    def encode(self, text: str) -> list[int]:
        ids = self.encode_plain(text)
        return ids if self.bos_id is None or ids[:1] == [self.bos_id] else [self.bos_id, *ids]

    def encode_plain(self, text: str) -> list[int]:
        """`encode` without BOS. Raises EvalkitError for a text that is no valid Unicode."""
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            raise EvalkitError("the prompt holds a lone surrogate, which is no character; send valid Unicode") from None
        room = len(raw) + 8  # a token has at least one byte, and some tokenizers put a blank in front
        while True:
            ids = (ctypes.c_int32 * room)()
            count = self._library.llama_tokenize(self._pointer, raw, len(raw), ids, room, False, True)
            if count >= 0:
                return ids[:count]
            room = -count

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens; each byte that is no part of a character becomes U+FFFD."""
        return b"".join(self._piece(i) for i in ids if i not in self.special).decode("utf-8", "replace")

    def sha256(self) -> str:
        """Digest of the metadata that the tokenizer and the chat template are made from."""
        return self._sha256.hexdigest()

    def _special(self, name: str) -> int | None:
        i = int(getattr(self._library, f"llama_vocab_{name}")(self._pointer))
        return i if i >= 0 else None

    def _name(self, token: int) -> str:
        return bytes(self._library.llama_vocab_get_text(self._pointer, token)).decode("utf-8", "replace")

    def _piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = self._library.llama_token_to_piece(self._pointer, token, buffer, room, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            room = -count
