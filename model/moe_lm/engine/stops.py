"""Stop strings: where the text of generated tokens ends.

A stop string may name special tokens ("<|im_end|>", "</s>\\n"), which decoding leaves out of the text; it is then looked for in the text
with the special tokens written out.
"""

from collections.abc import Sequence

from moe_lm.engine.in_flight import Vocabulary

SLACK = 16  # more tokens than a stop string has bytes, since some tokens add no text


class Stops:
    """The stop strings of one request."""

    def __init__(self, until: Sequence[str], vocabulary: Vocabulary):
        self.until, self.vocabulary = until, vocabulary
        self.window = max((len(stop.encode()) for stop in until), default=0) + SLACK
        self.name_special = any(name in stop for stop in until for name in vocabulary.special.values())

    def may_end(self, tokens: Sequence[int]) -> bool:
        """Whether a stop string may be in the newest tokens, of which only as many are read as could form one (a byte each).

        If these begin or end within a letter, some tokenizers drop all following bytes; then only the whole text tells. So it does
        once the answer has a special token and a stop string names one.
        """
        if not self.until:
            return False
        if self._names_one_of(tokens):
            return True
        text = self.vocabulary.decode(list(tokens[-self.window :]))
        return "\ufffd" in text or any(stop in text for stop in self.until)

    def find(self, tokens: Sequence[int], text: str) -> tuple[int, str] | None:
        """Where in `text`, which the tokens give, it ends, and the stop string found: the first one in the text."""
        return self._find_special(tokens) if self._names_one_of(tokens) else self._first(text)

    def _names_one_of(self, tokens: Sequence[int]) -> bool:
        """Whether a stop string may name one of the tokens."""
        return self.name_special and any(token in self.vocabulary.special for token in tokens)

    def _first(self, text: str) -> tuple[int, str] | None:
        return min(((at, stop) for stop in self.until if (at := text.find(stop)) >= 0), default=None)

    def _find_special(self, tokens: Sequence[int]) -> tuple[int, str] | None:
        """As `find`, in the text with special tokens written out."""
        decode, special = self.vocabulary.decode, self.vocabulary.special
        whole, length = "", 0  # the text with special tokens, and the length of the text without them
        names: list[tuple[int, int]] = []  # where in `whole` a special token begins, and its length
        for i, token in enumerate([*tokens, None]):
            if token is None or token in special:
                before = decode(list(tokens[:i]))
                whole, length = whole + before[length:], len(before)
                if token is not None:
                    names.append((len(whole), len(special[token])))
                    whole += special[token]
        found = self._first(whole)
        if found is None:
            return None
        at, stop = found
        return at - sum(min(size, at - begin) for begin, size in names if begin < at), stop
