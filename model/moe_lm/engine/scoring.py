"""A prompt whose every token is scored: the `echo` of a completions API.

The scorer returns a continuation's sum and runs the head only there; this returns every position, for serving. The values equal the
scorer's where the back-end is layout-invariant.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from moe_lm.backends.base import Backend
from moe_lm.engine.batch import HEAD_ROWS
from moe_lm.engine.in_flight import WORTH_WAITING, InFlight
from moe_lm.engine.not_finite import explain, suspect
from moe_lm.engine.prefix_tree import num_shared
from moe_lm.engine.request import PromptScores, PromptScoresRequest, TokenScore


class Scoring(InFlight[PromptScores]):
    """`scores` are those of the prompt's first tokens, as far as they are known. The last token is scored but not run."""

    def __init__(self, request: PromptScoresRequest, arrival: int):
        super().__init__(request.prompt[:-1], request.prompt, request.priority, arrival)
        self.request = request
        self.scores: PromptScores = [None]
        self._end_if_complete()

    def reusable(self) -> Sequence[int]:
        # the token before the first that has no score yet must be run
        return self.ids[: len(self.scores) - 1]

    def should_wait_for(self, other: InFlight, num_known: int) -> bool:
        """For scores, not for keys and values: the head has to run at every position."""
        if not isinstance(other, Scoring) or other.request.num_top != self.request.num_top:
            return False
        return self._num_shared(other) >= len(self.scores) + WORTH_WAITING

    def take_scores(self, others: Iterable["Scoring"]) -> None:
        """Take over what others have computed of the same first tokens."""
        for other in others:
            if other.request.num_top == self.request.num_top:
                shared = min(self._num_shared(other), len(other.scores))
                self.scores += other.scores[len(self.scores) : shared]
        self._end_if_complete()

    def _num_shared(self, other: "Scoring") -> int:
        return num_shared(other.prompt, self.prompt)

    def wanted(self, begin: int, end: int) -> range:
        return range(max(0, len(self.scores) - 1 - begin), end - begin)

    @torch.inference_mode()
    def read(self, backend: Backend, hidden_PD: Tensor) -> None:
        """Score the tokens that follow the wanted ones. Raises ModelError for logits that are not finite."""
        prompt, num_top = self.prompt, self.request.num_top
        for some_PD in hidden_PD.split(HEAD_ROWS):
            first = len(self.scores)
            following_P1 = torch.tensor(prompt[first : first + len(some_PD)], device=some_PD.device)[:, None]
            logits_PV = backend.logits(some_PD)
            for row in suspect(some_PD, logits_PV).nonzero()[:1, 0].tolist():
                if error := explain(backend, prompt[: first + row], "no token can be scored"):
                    raise error
            self.scores += token_scores(backend, logits_PV, following_P1, num_top)
        self._end_if_complete()

    def _end_if_complete(self) -> None:
        if len(self.scores) == len(self.prompt):
            self.result = self.scores


def token_scores(backend: Backend, logits_PV: Tensor, tokens_P1: Tensor, num_top: int) -> list[TokenScore]:
    """The scores of the tokens that follow, from the logits before them, all finite."""
    logsumexp_P1 = backend.logsumexp(logits_PV)[:, None]
    logprobs_P = (logits_PV.gather(-1, tokens_P1) - logsumexp_P1)[:, 0]
    top = logits_PV.topk(min(num_top, logits_PV.shape[-1]), dim=-1)
    # argmax breaks ties towards the lower id, topk does not specify; the best one must be greedy decoding's
    best = backend.argmax(logits_PV).tolist() if num_top else [0] * len(logits_PV)
    rows = zip(logprobs_P.tolist(), best, top.indices.tolist(), (top.values - logsumexp_P1).tolist(), strict=True)
    scores: list[TokenScore] = []
    for logprob, likeliest, ids, logprobs in rows:
        ranked = {likeliest: logprobs[0]} | dict(zip(ids, logprobs, strict=True)) if num_top else {}
        scores.append(TokenScore(logprob, tuple(ranked.items())[:num_top]))
    return scores
