"""The text of single tokens, which decoding them one by one does not tell.

A SentencePiece decoder drops the first blank, so "▁true" and "true" both decode to "true"; a token that holds a part of a letter decodes to
U+FFFD. Here each token has its bytes, and a name that no other token has.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


class TokenTexts:
    """Bytes and names of a vocabulary's tokens. Ids beyond the tokenizer's, which a padded embedding has, have no bytes."""

    def __init__(self, fast: FastTokenizer):
        self.fast = fast
        state = json.loads(fast.decoder.__getstate__()) if fast.decoder else {}
        self._steps: Sequence[Mapping[str, Any]] = state["decoders"] if state.get("type") == "Sequence" else [state] if state else []

    def token_bytes(self, token: int) -> bytes:
        """What the token adds to a text that others precede."""
        text = self.fast.id_to_token(token)
        if text is None:
            return b""
        for step in self._steps:
            match step["type"]:
                case "ByteLevel":
                    found = [_BYTE_OF_LETTER.get(letter) for letter in text]
                    return text.encode() if None in found else bytes(byte for byte in found if byte is not None)
                case "ByteFallback":
                    if (byte := fallback_byte(text)) is not None:
                        return bytes([byte])
                case "Replace" if "String" in step["pattern"]:
                    text = text.replace(step["pattern"]["String"], step["content"])
                case "Metaspace":
                    text = text.replace(step["replacement"], " ")
                case "WordPiece":
                    text = text.removeprefix(step["prefix"]) if text.startswith(step["prefix"]) else f" {text}"
                case "BPEDecoder":
                    text = text.replace(step["suffix"], " ")
        return text.encode()

    def name(self, token: int) -> str:
        """The token's text; of several tokens with the same text only one has it as its name.

        The others are "token_id:N", as vLLM writes them; a part of a letter is "bytes:\\xNN", as OpenAI does.
        """
        return self._names[token] if 0 <= token < len(self._names) else f"token_id:{token}"

    @cached_property
    def _names(self) -> list[str]:
        owners: dict[str, int] = {}
        size = 1 + max(self.fast.get_vocab().values(), default=-1)
        names = [_text_or_bytes(self.token_bytes(token)) for token in range(size)]
        for token, name in enumerate(names):
            # a byte that stands in for what the vocabulary lacks gives way to a token of the vocabulary
            if name not in owners or (self._is_fallback(owners[name]) and not self._is_fallback(token)):
                owners[name] = token
        return [name if name and owners[name] == token else f"token_id:{token}" for token, name in enumerate(names)]

    def _is_fallback(self, token: int) -> bool:
        return fallback_byte(self.fast.id_to_token(token) or "") is not None


def fallback_byte(text: str) -> int | None:
    """The byte that a token such as "<0x0A>" stands for, None for any other token; hex digits as the library reads them."""
    found = _BYTE.fullmatch(text)
    return int(found[1], 16) if found else None


def _text_or_bytes(token: bytes) -> str:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _letters_of_bytes() -> dict[str, int]:
    """The letters by which byte-level tokenizers write bytes: printable ones stand for themselves, the others for U+0100 and after."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_LETTER = _letters_of_bytes()
