"""Tokens that are single bytes, as SentencePiece writes letters that it has no token for: every whole character is read."""

import random

import pytest
import tokenizers
from tokenizers import decoders, models

from moe_lm.tokenizer.tokenizer import Tokenizer

PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁he", "llo", "▁", "\ufffd", "<sep>"]


@pytest.fixture(scope="module")
def tokenizer():
    fast = tokenizers.Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(PIECES)}, merges=[], unk_token="<unk>", byte_fallback=True))
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", left=1, right=0)]
    )
    fast.add_special_tokens(["<s>", "</s>", "<sep>"])
    return Tokenizer(fast, None, (2,), None)


def bytes_of(data):
    return [3 + byte for byte in data]


def ids(*parts):
    return [i for part in parts for i in (bytes_of(part) if isinstance(part, bytes) else [PIECES.index(part)])]


SMILE = "🙂".encode()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (ids("▁he", b"\n", SMILE[:3]), "he\n\ufffd\ufffd\ufffd"),
        (ids("▁he", b"\n" + SMILE), "he\n🙂"),
        (ids("▁he", b"\n" + SMILE + SMILE[:1]), "he\n🙂\ufffd"),
        (ids(SMILE[1:], b"\n", "llo"), "\ufffd\ufffd\ufffd\nllo"),
        (ids(SMILE[:2] + b"a" + SMILE, "▁he"), "\ufffd\ufffda🙂 he"),
        (ids(b"\xc3\xa9\xc3", "llo", b"\xa9"), "é\ufffdllo\ufffd"),  # the two bytes are no character across another token
        (ids(b"\xe2\x96\x81\xff"), "▁\ufffd"),  # a written ▁ is not SentencePiece's space
        (ids(b"\xc3", "<sep>", b"\xa9"), "é"),  # decoding leaves special tokens out, so the bytes meet
        (ids(b"\xed\xa0\x80\n"), "\ufffd\ufffd\ufffd\n"),  # a surrogate is no character
        (ids("\ufffd", "llo"), "\ufffdllo"),
        (ids(), ""),
    ],
)
def test_only_what_is_no_character_is_replaced(tokenizer, given, text):
    assert tokenizer.decode(given) == text


def test_whole_text_is_the_librarys(tokenizer):
    draw = random.Random(0)
    for _ in range(200):
        given = ids(*(draw.choice(["▁he", "llo", "<s>", "▁", "é\n🙂中".encode(), b"a\n"]) for _ in range(draw.randint(0, 12))))
        assert tokenizer.decode(given) == tokenizer.fast.decode(given, skip_special_tokens=True)


def test_a_text_grows_by_whole_characters(tokenizer):
    """As a stream shows it: what is before an incomplete character never changes."""
    whole = "he\n🙂 中\r\n🙂"
    given = ids("▁he", whole[2:].encode())
    for n in range(len(given)):
        assert whole.startswith(tokenizer.decode(given[:n]).rstrip("\ufffd"))
    assert tokenizer.decode(given) == whole
