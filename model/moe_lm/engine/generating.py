"""An answer that is being generated: its tokens, its text, and where it ends."""

from collections.abc import Sequence

import torch
from torch import Tensor

from moe_lm.backends.base import Backend
from moe_lm.engine.drafts import Drafter
from moe_lm.engine.in_flight import InFlight, Vocabulary
from moe_lm.engine.request import GenerateRequest, Generation, TokenScore
from moe_lm.engine.sampling import sample
from moe_lm.engine.scoring import token_scores
from moe_lm.engine.stops import Stops


class Generating(InFlight[Generation]):
    """`ids` are the prompt and then `tokens`, the generated ones; the last of all is the next to run."""

    def __init__(self, request: GenerateRequest, arrival: int, vocabulary: Vocabulary, drafts: bool = False):
        super().__init__(request.prompt, request.prompt, request.priority, arrival)
        self.request, self.vocabulary = request, vocabulary
        self.tokens: list[int] = []
        self.scores: list[TokenScore] = []
        self.stops = Stops(request.until, vocabulary)
        self.rng = torch.Generator().manual_seed(request.seed)
        # in speed measurements on random tokens the model repeats itself, and every guess would be right
        self.drafter = Drafter(request.prompt) if drafts and not request.ignore_eos else None

    @property
    def is_decoding(self) -> bool:
        """Is only its newest generated token left to run?"""
        return bool(self.tokens) and self.left == 1

    @property
    def has_begun(self) -> bool:
        return bool(self.tokens)

    @property
    def longest(self) -> int:
        return len(self.prompt) + self.request.max_new_tokens - 1  # the last new token is never run

    def reusable(self) -> Sequence[int]:
        return self.ids[:-1]

    def wanted(self, begin: int, end: int) -> range:
        return range(end - begin - 1 if end == len(self.ids) else end - begin, end - begin)

    def guess(self, more: int) -> list[int]:
        """Guesses at the tokens after its newest one."""
        left = self.request.max_new_tokens - len(self.tokens) - 1
        return self.drafter.guess(more)[:left] if self.drafter else []

    def read(self, backend: Backend, logits_PV: Tensor, likeliest_P: Sequence[int], guesses: Sequence[int]) -> None:
        """Choose a token after its newest one and, while they are right, after each guess that was run with it.

        Takes logits [1 + guesses, V], all finite, and the likeliest token of each row.
        """
        assert self.cache is not None
        first, sampled, num_top = self.cache.length - len(guesses), self.request.temperature > 0, self.request.num_top
        for n, (logits_V, likeliest) in enumerate(zip(logits_PV, likeliest_P, strict=True)):
            token = sample(logits_V, self.request, self.rng) if sampled else likeliest
            if num_top is not None:
                self.scores += token_scores(backend, logits_V[None], torch.tensor([[token]], device=logits_V.device), num_top)
            self.advance(token)
            if self.has_ended:
                return
            if n < len(guesses) and self.tokens[-1] != guesses[n]:
                self.cache.length = first + n  # wrong guesses are overwritten
                return

    def advance(self, token: int) -> None:
        """Add the next token, and end the answer where it ends."""
        request, vocabulary = self.request, self.vocabulary
        if token in vocabulary.stop_ids and not request.ignore_eos:
            self.result = self._answer(vocabulary.decode(self.tokens), "eos")
            return
        self.tokens.append(token)
        self.ids.append(token)
        if self.drafter:
            self.drafter.add(token)
        # the whole text again, if it is needed: a token may complete a letter that earlier ones began
        at_end = len(self.tokens) == request.max_new_tokens
        if not (at_end or request.on_progress or self.stops.may_end(self.tokens)):
            return
        text = vocabulary.decode(self.tokens)
        if found := self.stops.find(self.tokens, text):
            cut, stop = found
            self.result = self._answer(text[:cut], "stop", stop)
        elif at_end:
            self.result = self._answer(text, "length")
        elif request.on_progress:
            request.on_progress(self._answer(text, ""))

    def _answer(self, text: str, finish_reason: str, stop: str | None = None) -> Generation:
        """The answer as it is now; the scores are those of its tokens, without that of an end of text."""
        return Generation(text, [*self.tokens], finish_reason, stop, self.scores[: len(self.tokens)])
