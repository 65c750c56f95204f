"""Log-probabilities in OpenAI's two layouts: that of completions ("legacy"), and that of chats.

A token's name is its text where that is text and no other token's; see `moe_lm.tokenizer.token_text`.
"""

import codecs
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from evalkit.lm.native_tokens import TokenModel, TokenScore

Scores = Sequence[TokenScore | None]


class CompletionLogprobs:
    """The layout of completions, for the tokens of a text that may still grow.

    tokens, token_logprobs, top_logprobs and text_offset have an entry a token. `top_logprobs` holds the likeliest tokens and the token
    itself, as in vLLM. `text_offset` is where in the text the token's first letter is, 0 being the first of the choice.
    """

    def __init__(self, model: TokenModel, num_top: int, as_ids: bool = False):
        """`as_ids`: name every token "token_id:N"."""
        self.model, self.num_top, self.as_ids = model, num_top, as_ids
        self._at = 0
        self._letters = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, tokens: Sequence[int], scores: Scores, text: str, settled: int | None = None) -> dict[str, Any]:
        """The entries of the next tokens; `text` is the whole text up to the last of them, or more, or cut in them at a stop string.

        With `settled`, those alone that begin before this place in the text.
        """
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, score in zip(tokens, scores, strict=True):
            if settled is not None and self._at >= settled:
                break
            offset, has_lost_blank = self._place(token, text)
            named = self._naming(token, has_lost_blank)
            found["tokens"].append(named(token))
            found["text_offset"].append(offset)
            found["token_logprobs"].append(score and score.logprob)
            listed = score and dict(score.top[: self.num_top]) | {token: score.logprob}
            found["top_logprobs"].append(listed and {named(each): logprob for each, logprob in listed.items()})
        return found

    def _place(self, token: int, text: str) -> tuple[int, bool]:
        """Where in the text the token begins, and whether a blank at its front is missing there."""
        self._at = min(self._at, len(text))
        begin, written = self._at, self._letters.decode(self.model.texts.token_bytes(token))
        if text.startswith(written, begin):
            self._at += len(written)
        elif written.startswith(" ") and text.startswith(written[1:], begin):  # SentencePiece's, in front of a text
            self._at += len(written) - 1
            return begin, True
        elif token not in self.model.special:  # else not part of the text, such as BOS
            self._at = min(begin + len(written), len(text))
        return begin, False

    def _naming(self, token: int, has_lost_blank: bool) -> Callable[[int], str]:
        """The names at one position. Without its blank a token may have another's name, which is then given to `token`."""
        name = self.model.texts.name
        if self.as_ids:
            return "token_id:{}".format
        if not has_lost_blank:
            return name
        bare = name(token).removeprefix(" ")
        return lambda each: bare if each == token else f"token_id:{each}" if name(each) == bare else name(each)


def chat_logprobs(model: TokenModel, tokens: Sequence[int], scores: Scores, num_top: int) -> dict[str, Any]:
    """The layout of chats: the likeliest `num_top` tokens beside each one."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        return {"token": model.texts.name(token), "logprob": logprob, "bytes": list(model.texts.token_bytes(token))}

    def entries() -> Iterator[dict[str, Any]]:
        for token, score in zip(tokens, scores, strict=True):
            assert score is not None  # generated tokens have a context
            yield entry(token, score.logprob) | {"top_logprobs": [entry(*each) for each in score.top[:num_top]]}

    return {"content": list(entries()), "refusal": None}
