"""Stop strings are found with the token that completes them, in a few of the newest tokens, whatever letters are made of."""

import pytest
import tokenizers
from tiny_models import on, tiny_config, tiny_decoder

from moe_lm.engine.generator import SLACK, GenerateRequest, Generator, _Sequence

SPELLING = tokenizers.decoders.Sequence(
    [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
)


def byte_tokens(text):
    """SentencePiece's tokens for letters that it has none for."""
    return [f"<0x{byte:02X}>" for byte in text.encode()]


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
    generator = Generator(on("reference", tiny_decoder(tiny_config())), lambda ids: SPELLING.decode([pieces[i] for i in ids]), frozenset())
    sequence = _Sequence(0, GenerateRequest([1], until, max_new_tokens=1000), None, None, None)
    for i in range(len(pieces)):
        whole = SPELLING.decode(pieces[: i + 1])
        cuts = [whole.find(stop) for stop in until if stop in whole]
        generation = generator._advance(sequence, i)
        assert (generation is not None) == bool(cuts)
        if generation:
            assert (generation.text, generation.finish_reason) == (whole[: min(cuts)], "stop")
            return
    assert name == "never"
