"""Tokenizers, built on the `tokenizers` library from a GGUF's metadata or a Hugging Face folder.

BOS is added at most once: by `encode`, where the model asks for one and the text does not begin with it already.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from moe_lm.errors import ModelError, Unsupported
from moe_lm.files import and_more, shown
from moe_lm.tokenizer import folder as folder_files
from moe_lm.tokenizer import gguf
from moe_lm.tokenizer.gguf_vocabulary import Vocabulary
from moe_lm.tokenizer.library import attempt
from moe_lm.tokenizer.token_text import fallback_byte

_MAX_ID = 1 << 31
_FAILED = "the model's tokenizer can't encode the text"
_END_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "</s>", "<eos>", "<end_of_turn>")


class Tokenizer:
    """Text to ids and back. `bos_id` is set where the model wants it in front of every prompt; `stop_ids` end an answer.

    `bos_token` and `eos_token` are what a chat template may write, "" where there is none; a BOS may be named and not wanted.
    `notices`: what a user should know about how the files were read, a line each. `size`: ids are below it, where that is known already.
    """

    def __init__(
        self,
        fast: FastTokenizer,
        bos_id: int | None,
        eos_ids: Sequence[int],
        chat_template: str | None,
        bos_token: str = "",
        eos_token: str = "",
        notices: Sequence[str] = (),
        size: int | None = None,
    ):
        self.fast, self._size = fast, size
        self.notices = notices
        self.bos_id = bos_id
        self.chat_template = chat_template
        self.bos_token, self.eos_token = bos_token, eos_token
        fast.no_truncation()
        fast.no_padding()
        special = fast.get_added_tokens_decoder()
        self.special = {i: token.content for i, token in special.items() if token.special}  # what `decode` leaves out
        # a base model's end of text and a chat model's end of turn both end an answer, whichever the file names
        ends = {i for i, token in special.items() if token.special and token.content in _END_TOKENS}
        eos_ids = [i for i in eos_ids if 0 <= i < _MAX_ID]  # some files say -1 for none
        self.stop_ids = frozenset(ends | set(eos_ids))
        # what stands in for an empty context: the model's BOS, else its end of text
        self.prefix_id = next(iter((bos_id,) if bos_id is not None else eos_ids), None)
        self.num_rows: int | None = None

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Raises ModelError, by name, for a tokenizer model or pre-tokenizer that is not built here."""
        vocabulary = Vocabulary.read(metadata)
        fast, bos_id = gguf.build(vocabulary)
        names = {name: vocabulary.id(name) for name in ("bos", "eos")}
        tokens = {name: vocabulary.tokens[i] for name, i in names.items() if i is not None}
        template = metadata.get("tokenizer.chat_template")
        if not isinstance(template, str | None):
            raise ModelError(f"tokenizer.chat_template is {shown(template)}, expected a text; convert the model again")
        named = tokens.get("bos", ""), tokens.get("eos", "")
        return cls(fast, bos_id, vocabulary.ends(), template, *named, size=len(vocabulary.tokens))

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """From tokenizer.json and the files beside it (`moe_lm.tokenizer.folder`). Raises ModelError where one is damaged."""
        found = folder_files.read(folder)
        bos_id = attempt(f"{folder / 'tokenizer.json'} can't encode a letter", _wanted_bos, found.fast)
        return cls(
            found.fast,
            bos_id,
            found.eos_ids,
            found.chat_template,
            found.bos_token,
            found.eos_token,
            tuple(_bos_notices(found, bos_id)),
        )

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json, generation_config.json (the ends of text) and, if any, chat_template.jinja."""
        self.fast.save(str(folder / "tokenizer.json"))
        settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        if self.bos_token:
            settings["bos_token"] = self.bos_token
        if self.eos_token:
            settings["eos_token"] = self.eos_token
        elif known := [token for i in (*sorted(self.stop_ids), self.prefix_id) if i is not None and (token := self.fast.id_to_token(i))]:
            settings["eos_token"] = known[0]
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
        if self.stop_ids:
            ends = json.dumps({"eos_token_id": sorted(self.stop_ids)}, indent=2)
            (folder / "generation_config.json").write_text(ends + "\n", "utf-8")
        if self.chat_template:
            (folder / "chat_template.jinja").write_text(self.chat_template, "utf-8")

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens written in it are recognised; BOS in front where the model wants one."""
        return self._with_bos(self.encode_plain(text))

    def encode_plain(self, text: str) -> list[int]:
        """`encode` without BOS."""
        return self._with_rows(attempt(_FAILED, self.fast.encode, text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        encoded = attempt(_FAILED, self.fast.encode_batch, list(texts), add_special_tokens=False)
        return [self._with_bos(self._with_rows(e.ids)) for e in encoded]

    def fit(self, num_rows: int) -> None:
        """Take the model's embedding into account, which has `num_rows` rows; more than there are tokens is usual.

        Raises ModelError where any text, or BOS, has a token without a row: the tokenizer is another model's. For an added token
        without one, such as Gemma's <image_soft_token> or a <pad> that was added later, `encode` raises it, for a text that has it.
        """
        self.num_rows = num_rows
        beyond = {} if self._size is not None and self._size <= num_rows else self._beyond(num_rows)
        if beyond:
            first = min(beyond)
            raise ModelError(
                f"the tokenizer has the token {shown(beyond[first])} with id {first}{and_more(len(beyond) - 1)}, but the model's embedding "
                f"has {num_rows} rows: it is another model's tokenizer, or the embedding was not resized"
            )
        self._with_rows([] if self.bos_id is None else [self.bos_id])
        if self.prefix_id is not None and self.prefix_id >= num_rows:
            self.prefix_id = None

    def _beyond(self, num_rows: int) -> dict[int, str]:
        """Tokens without a row, those aside that were added."""
        added = self.fast.get_added_tokens_decoder().keys()
        return {i: token for token, i in self.fast.get_vocab(with_added_tokens=False).items() if i >= num_rows and i not in added}

    def _with_rows(self, ids: list[int]) -> list[int]:
        if self.num_rows is not None and ids and (largest := max(ids)) >= self.num_rows:
            raise ModelError(
                f"the text has the token {shown(self.fast.id_to_token(largest))} with id {largest}, for which the model's embedding of "
                f"{self.num_rows} rows has none; leave it out, or resize the embedding"
            )
        return ids

    def _with_bos(self, ids: list[int]) -> list[int]:
        return ids if self.bos_id is None or ids[:1] == [self.bos_id] else [self.bos_id, *ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens; each byte that is no part of a character becomes U+FFFD."""
        text = attempt("the model's tokenizer can't decode its ids", self.fast.decode, list(ids), skip_special_tokens=True)
        return self._decode_bytes(ids) if "\ufffd" in text and self.fast.token_to_id("<0x0A>") is not None else text

    def _decode_bytes(self, ids: Sequence[int]) -> str:
        """As `decode`, where tokens may be bytes ("<0x0A>"): of a run of them, the library drops all if one is no part of a character."""
        tokens = [token for i in ids if i not in self.special and (token := self.fast.id_to_token(i)) is not None]
        runs = [(is_byte, list(run)) for is_byte, run in groupby(tokens, lambda token: fallback_byte(token) is not None)]
        whole = [token for is_byte, run in runs for token in (_mark_cut_characters(run) if is_byte else run)]
        return self.fast.decoder.decode(whole)

    def sha256(self) -> str:
        """Digest of the whole tokenizer and its chat template, for a model's fingerprint."""
        import hashlib

        return hashlib.sha256((self.fast.to_str() + "\0" + repr((self.bos_id, self.chat_template))).encode()).hexdigest()


def _mark_cut_characters(byte_tokens: Sequence[str]) -> list[str]:
    """A run of byte tokens, those that are no part of a character replaced by U+FFFD."""
    data = bytes(int(token[3:5], 16) for token in byte_tokens)
    # a byte that cannot be decoded becomes a lone surrogate, and characters of several bytes stay as many tokens
    marked: list[str] = []
    for character in data.decode("utf-8", "surrogateescape"):
        length = len(character.encode("utf-8", "surrogateescape"))
        at = len(marked)
        marked += ["\ufffd"] if "\udc80" <= character <= "\udcff" else byte_tokens[at : at + length]
    return marked


def _wanted_bos(fast: FastTokenizer) -> int | None:
    """The id of the token that tokenizer.json's post-processor puts in front of every text, as BOS; None for none.

    As in transformers 5, tokenizer_config.json's add_bos_token decides nothing where there is a tokenizer.json.
    """
    text = next((text for text in ("a", "0", " ") if fast.encode(text, add_special_tokens=False).ids), "")
    probe, bare = (fast.encode(text, add_special_tokens=special).ids for special in (True, False))
    front = next((at for at in range(len(probe)) if probe[at : at + len(bare)] == bare), 0)
    if front > 1:
        raise Unsupported(f"tokenizer.json puts {front} tokens in front of every text: {shown(probe[:front])}; only one (BOS) is supported")
    if behind := probe[front + len(bare) :]:
        raise Unsupported(f"tokenizer.json puts {shown(fast.id_to_token(behind[0]))} behind every text, where a prompt could not go on")
    return probe[0] if front else None


def _bos_notices(found: folder_files.FolderTokenizer, bos_id: int | None) -> Iterator[str]:
    """Of Llama's and Gemma's classes, which in transformers 4 put a BOS in front that tokenizer.json does not."""
    is_llama = str(found.settings.get("tokenizer_class")).startswith(("Llama", "Gemma"))
    if is_llama and found.settings.get("add_bos_token") and bos_id is None and found.bos_token:
        yield (
            f"add_bos_token of tokenizer_config.json has no effect, as in transformers 5: tokenizer.json puts no {found.bos_token} in front"
            " (transformers 4 put it there)"
        )
