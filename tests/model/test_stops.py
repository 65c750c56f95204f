"""Stop strings are found with the token that completes them, in a few of the newest tokens, whatever letters are made of."""

import pytest
import tokenizers

from moe_lm.engine.generating import Generating
from moe_lm.engine.in_flight import Vocabulary
from moe_lm.engine.request import GenerateRequest
from moe_lm.engine.stops import SLACK

SPELLING = tokenizers.decoders.Sequence(
    [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
)


def byte_tokens(text):
    """SentencePiece's tokens for letters that it has none for."""
    return [f"<0x{byte:02X}>" for byte in text.encode()]


def test_a_special_token_long_before_the_end_of_the_stop_string():
    pieces = {0: "", 1: "x", 9: "<|turn|>"}
    vocabulary = Vocabulary(lambda ids: "".join(pieces[i] for i in ids if i != 9), frozenset(), {9: pieces[9]})
    answer = Generating(GenerateRequest([1], ("<|turn|>xx",), max_new_tokens=1000), 0, vocabulary)
    for token in (1, 9, *[0] * (3 * SLACK + len("<|turn|>xx")), 1, *[0] * (2 * SLACK)):
        answer.advance(token)
        assert not answer.has_ended
    answer.advance(1)
    assert (answer.outcome().text, answer.outcome().stop) == ("x", "<|turn|>xx")


CASES = {
    "letters": (list("one two"), ("e t",)),
    "across tokens": (["Answer", ":", " 4", "\n", "\nQues", "tion"], ("\n\nQ", "xyz")),
    "of two, the first in the text": (["ab", "cd"], ("d", "bc")),
    "never": (list("nothing"), ("zz",)),
    "bytes alone": (byte_tokens("ភាសាខ្មែរមិនមានដកឃ្លា។បន្ទាប់"), ("។",)),
    "after many bytes": (byte_tokens("తెలుగు భాష చాలా అందమైనది\nప్రశ్న: ఏమిటి"), ("\nప్రశ్న",)),
    "words, then bytes": ([*list("The answer is "), *byte_tokens("四十二"), "▁QED", *byte_tokens("。"), "▁more"], ("。",)),
    "among tokens that say nothing": (["S", *[""] * (SLACK - 1), "TOP", "!"], ("STOP",)),
    "at a word's beginning": (["▁so", "▁far", *["▁on"] * 40, "▁end"], (" end",)),
}


@pytest.mark.parametrize("name", CASES)
def test_as_in_the_whole_text(name):
    pieces, until = CASES[name]
    vocabulary = Vocabulary(lambda ids: SPELLING.decode([pieces[i] for i in ids]), frozenset())
    answer = Generating(GenerateRequest([1], until, max_new_tokens=1000), 0, vocabulary)
    for i in range(len(pieces)):
        whole = SPELLING.decode(pieces[: i + 1])
        cuts = [(whole.find(stop), stop) for stop in until if stop in whole]
        answer.advance(i)
        assert answer.has_ended == bool(cuts)
        if cuts:
            cut, stop = min(cuts)
            found = answer.outcome()
            assert (found.text, found.finish_reason, found.stop) == (whole[:cut], "stop", stop)
            return
    assert name == "never"


SPECIAL = {0: "<|a|>", 1: "<|b|>"}
WRITTEN = ["<|a|>", "<|b|>", "x", "y", "\n", "xy"]


@pytest.mark.parametrize(
    ("ids", "until", "text", "stop"),
    [
        ([2, 3, 0], ("<|a|>",), "xy", "<|a|>"),
        ([0], ("<|a|>",), "", "<|a|>"),
        ([1, 2, 1, 3, 0], ("<|a|>",), "xy", "<|a|>"),
        ([2, 0, 4, 1], ("<|a|>\n<|b|>",), "x", "<|a|>\n<|b|>"),
        ([2, 0, 3, 0, 4], ("<|a|>\n",), "xy", "<|a|>\n"),
        ([2, 5, 0], ("y<|a|>",), "xx", "y<|a|>"),  # begins within a token
        ([1, 2, 1, 5, 0], ("y<|a|>", "never"), "xx", "y<|a|>"),
        ([3, 0, 2], ("x",), "y", "x"),
        ([0, 3, 2, 1, 4], ("\n", "<|z|>"), "yx", "\n"),
    ],
)
def test_special_tokens_as_stop_strings(ids, until, text, stop):
    """Decoding leaves them out of the text, so they are looked for with their names written out."""
    vocabulary = Vocabulary(lambda some: "".join(WRITTEN[i] for i in some if i not in SPECIAL), frozenset(), SPECIAL)
    answer = Generating(GenerateRequest([1], until, max_new_tokens=1000), 0, vocabulary)
    for i in ids:
        assert not answer.has_ended
        answer.advance(i)
    assert (answer.outcome().text, answer.outcome().finish_reason, answer.outcome().stop) == (text, "stop", stop)
