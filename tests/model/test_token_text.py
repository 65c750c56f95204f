"""The text of single tokens: together they are the text, and no two have one name."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.tokenizer import gguf
from moe_lm.tokenizer.gguf_vocabulary import Vocabulary
from moe_lm.tokenizer.token_text import TokenTexts

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokenizer_corpus.json").read_text("utf-8"))
PIECES = ["▁", *"abcdefghijklmnopqrstuvwxyz", "▁t", "th", "▁th", "he", "▁the", "the", "tr", "ue", "▁tr", "true", "▁true"]


def sentencepiece() -> Tokenizer:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *PIECES]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(len(PIECES))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(PIECES),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    return gguf.build(Vocabulary.read(metadata))[0]


def metaspace() -> Tokenizer:
    fast = Tokenizer(models.BPE({piece: i for i, piece in enumerate(["<unk>", *PIECES])}, [], unk_token="<unk>"))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return fast


def wordpiece() -> Tokenizer:
    fast = Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1, "##y": 2, "true": 3}, unk_token="[UNK]"))
    fast.normalizer, fast.pre_tokenizer, fast.decoder = normalizers.Lowercase(), pre_tokenizers.Whitespace(), decoders.WordPiece()
    return fast


def byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast.add_special_tokens([AddedToken("<|a b|>", special=True, normalized=False)])
    return fast


def written(fast: Tokenizer, text: str) -> bytes:
    texts = TokenTexts(fast)
    return b"".join(map(texts.token_bytes, fast.encode(text, add_special_tokens=False).ids))


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_the_tokens_of_a_text_are_its_bytes(case, smollm2_path):
    fast, _ = gguf.build(Vocabulary.read(GGUFFile(smollm2_path).metadata))
    assert written(fast, case["text"]) == case["text"].encode()


@pytest.mark.parametrize("text", ["the true", "Öl 漢字 🙂\n", "true  the <s>the"])
def test_other_kinds_of_tokenizers(text):
    assert written(byte_level(), text) == text.encode()
    assert written(byte_level(), f"{text}<|a b|>") == f"{text}<|a b|>".encode()
    # a blank is put in front, and decoding drops it again
    assert written(sentencepiece(), text).replace(b"<s> ", b"<s>") == b" " + text.encode()
    assert written(metaspace(), "the true") == b" the true"
    assert written(wordpiece(), "The they true") == b" the they true"


def test_names_tell_tokens_apart(smollm2_path):
    for fast in (sentencepiece(), metaspace(), wordpiece(), byte_level(), gguf.build(Vocabulary.read(GGUFFile(smollm2_path).metadata))[0]):
        texts = TokenTexts(fast)
        names = [texts.name(token) for token in range(fast.get_vocab_size())]
        assert len(set(names)) == len(names)


def test_how_tokens_are_named():
    fast = sentencepiece()
    texts = TokenTexts(fast)
    named = {piece: texts.name(fast.token_to_id(piece)) for piece in ("▁true", "true", "a", "<0x61>", "<0x0A>", "<0xE2>", "<s>")}
    assert named == {
        "▁true": " true",
        "true": "true",
        "a": "a",
        "<0x61>": f"token_id:{fast.token_to_id('<0x61>')}",  # the vocabulary has an "a"
        "<0x0A>": "\n",
        "<0xE2>": "bytes:\\xe2",
        "<s>": "<s>",
    }
    assert texts.name(100_000) == "token_id:100000"
    assert texts.token_bytes(100_000) == b""
