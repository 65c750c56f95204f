"""A model for the fault tests: answers are pure functions of the requests, loading takes no time, and what it computes is written down."""

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from evalkit.hashing import canonical_json, sha256_json
from evalkit.lm.base import LM, Tokens
from evalkit.runner.journal import request_key
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods, Request

BATCH = 4  # requests computed at once: what can be in flight
SECONDS = 0.004  # a request, on average: half of an attempt, for the kills to find answers in flight
Answer = TypeVar("Answer")


class FastLM(LM):
    """One line a computed answer goes to `log`, before the harness sees the answer: the journal's key of the request."""

    fingerprint = "sha256:" + sha256_json("fast")

    def __init__(self, log: Path, solutions: Mapping[str, str]):
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.solutions = solutions  # by prompt: right bodies of HumanEval's functions
        self.computed = 0

    def _batches(self, requests: Sequence[Request], compute: Callable[[Any], Answer]) -> Iterator[tuple[int, Answer]]:
        for start in range(0, len(requests), BATCH):
            batch = list(enumerate(requests[start : start + BATCH], start))
            random.shuffle(batch)
            answers = []
            for i, request in batch:
                time.sleep(random.expovariate(1 / SECONDS))
                answers.append((i, compute(request)))
                self.computed += 1
                os.write(self.log, request_key(self.fingerprint, request).encode() + b"\n")
            yield from answers

    def loglikelihood(self, requests: Sequence[Loglikelihood]) -> Iterator[tuple[int, Loglikelihoods]]:
        def compute(request: Loglikelihood) -> Loglikelihoods:
            logprobs = [-int(_digest([request.context, c])[:8], 16) / 2**28 for c in request.continuations]
            return Loglikelihoods(tuple(logprobs), tuple(p == max(logprobs) for p in logprobs))

        return self._batches(requests, compute)

    def loglikelihood_rolling(self, texts: Sequence[str]) -> Iterator[tuple[int, float]]:
        raise NotImplementedError

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
        def compute(request: Generate) -> Generated:
            digest = _digest([request.context, request.seed])
            right = next((body for prompt, body in self.solutions.items() if prompt in request.context), "    return None\n")
            # numbers to extract, all kinds of text, right and wrong programs, and answers longer than a page of SQLite
            kinds = (
                right,
                "    return None\n",
                f" so it is {int(digest[:2], 16)}. The answer is {int(digest[2:4], 16)}.\n",
                "½ ü 漢 \0 " + digest * 99,
            )
            return Generated(kinds[int(digest[-1], 16) % (2 if request.temperature else 4)], "stop", len(digest))

        return self._batches(requests, compute)

    def describe(self) -> dict[str, Any]:
        return {"family": None, "parameters": None, "dtype": "none", "device": "cpu"}

    def tokens(self) -> Tokens:
        return Tokens(self.computed, 0)


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
