"""Tokenizers, built on the `tokenizers` library from a GGUF's metadata or a Hugging Face folder.

BOS is added at most once: by `encode`, where the model asks for one and the text does not begin with it already.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as FastTokenizer

from moe_lm.errors import ModelError

_QWEN2_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _smollm() -> pre_tokenizers.PreTokenizer:
    # digits first, one by one: transformers' GGUF path loses this step and tokenises "x =  5" wrongly
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _qwen2() -> pre_tokenizers.PreTokenizer:
    words = pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


# tokenizer.ggml.pre -> (pre-tokenizer, normalizer); llama.cpp's table is the reference for the names
_PRE_TYPES: dict[str, tuple[Callable[[], pre_tokenizers.PreTokenizer], Callable[[], normalizers.Normalizer] | None]] = {
    "smollm": (_smollm, None),
    "qwen2": (_qwen2, normalizers.NFC),
}
_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type
_END_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "</s>", "<end_of_turn>")


class Tokenizer:
    """Text to ids and back. `bos_id` is set where the model wants it in front of every prompt; `stop_ids` end an answer."""

    def __init__(self, fast: FastTokenizer, bos_id: int | None, eos_ids: Sequence[int], chat_template: str | None):
        self.fast = fast
        self.bos_id = bos_id
        self.chat_template = chat_template
        fast.no_truncation()
        fast.no_padding()
        special = fast.get_added_tokens_decoder()
        # a base model's end of text and a chat model's end of turn both end an answer, whichever the file names
        ends = {i for i, token in special.items() if token.special and token.content in _END_TOKENS}
        self.stop_ids = frozenset(ends | set(eos_ids))
        # what stands in for an empty context: the model's BOS, else its end of text
        self.prefix_id = bos_id if bos_id is not None else (eos_ids[0] if eos_ids else None)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Raises ModelError, by name, for a tokenizer model or pre-tokenizer that is not built here."""
        model, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
        if model != "gpt2" or pre not in _PRE_TYPES:
            known = ", ".join(_PRE_TYPES)
            raise ModelError(f"GGUF tokenizer {model!r} with pre-tokenizer {pre!r} is not supported; known: gpt2 with {known}")
        tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
        merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
        fast = FastTokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, fuse_unk=False, byte_fallback=False))
        make_pre_tokenizer, make_normalizer = _PRE_TYPES[pre]
        fast.pre_tokenizer = make_pre_tokenizer()
        if make_normalizer:
            fast.normalizer = make_normalizer()
        fast.decoder = decoders.ByteLevel()
        for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
            fast.add_tokens([AddedToken(t, normalized=False, special=special) for t, k in zip(tokens, kinds, strict=True) if k == kind])
        wants_bos = metadata.get("tokenizer.ggml.add_bos_token", False)
        bos_id = metadata["tokenizer.ggml.bos_token_id"] if wants_bos else None
        if bos_id is not None:  # for those who read the saved tokenizer.json; `encode` leaves post-processing out
            bos = tokens[bos_id]
            fast.post_processor = processors.TemplateProcessing(single=[bos, "$A"], special_tokens=[(bos, bos_id)])
        eos = metadata.get("tokenizer.ggml.eos_token_id")
        return cls(
            fast,
            bos_id,
            () if eos is None else (eos,),
            metadata.get("tokenizer.chat_template"),
        )

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """From tokenizer.json, and tokenizer_config.json or chat_template.jinja where they are there."""
        try:
            fast = FastTokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"cannot read {folder / 'tokenizer.json'}: {error}") from None
        settings = _json(folder / "tokenizer_config.json")
        model = _json(folder / "config.json")
        template = folder / "chat_template.jinja"
        eos = model.get("eos_token_id")
        # the file's own post-processor adds BOS where the model wants one; ask it, then do it ourselves, once
        probe = fast.encode("a", add_special_tokens=True).ids
        bare = fast.encode("a", add_special_tokens=False).ids
        bos_id = probe[0] if len(probe) > len(bare) and probe[0] != bare[0] else None
        return cls(
            fast,
            bos_id,
            () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
            template.read_text("utf-8") if template.exists() else settings.get("chat_template"),
        )

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and, where there is one, chat_template.jinja."""
        self.fast.save(str(folder / "tokenizer.json"))
        settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        if self.prefix_id is not None:
            settings["eos_token"] = self.fast.id_to_token(min(self.stop_ids) if self.stop_ids else self.prefix_id)
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
        if self.chat_template:
            (folder / "chat_template.jinja").write_text(self.chat_template, "utf-8")

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens written in it are recognised; BOS in front where the model wants one."""
        return self._with_bos(self.fast.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        return [self._with_bos(e.ids) for e in self.fast.encode_batch(list(texts), add_special_tokens=False)]

    def _with_bos(self, ids: list[int]) -> list[int]:
        return ids if self.bos_id is None or ids[:1] == [self.bos_id] else [self.bos_id, *ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens."""
        return self.fast.decode(list(ids), skip_special_tokens=True)

    def sha256(self) -> str:
        """Digest of the whole tokenizer and its chat template, for a model's fingerprint."""
        import hashlib

        return hashlib.sha256((self.fast.to_str() + "\0" + repr((self.bos_id, self.chat_template))).encode()).hexdigest()


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}
