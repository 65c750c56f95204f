"""Greedy and sampled generation: shared prefixes computed once, finished sequences replaced by waiting ones at every step.

A step is a prefill pass of at most `token_budget` tokens, long prompts in chunks, and a decode step of all sequences whose prompt is done.
If the back-end computes them at no cost, a decode step also runs drafts of the next tokens (see `moe_lm.engine.drafts`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from moe_lm.backends.base import PAGE, Backend
from moe_lm.engine.batch import forward
from moe_lm.engine.drafts import Drafter
from moe_lm.engine.pages import PagedCache, pool_for
from moe_lm.engine.prefix_tree import MIN_SHARED, num_shared
from moe_lm.engine.usage import Usage
from moe_lm.errors import ModelError

FREE_ROWS = 24  # of a decode step: these take hardly longer than one, since reading the weights dominates
SLACK = 16  # more tokens than a stop string has bytes, since some tokens add no text


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A prompt (token ids, not empty), stop strings, and how to choose tokens (temperature 0: greedy).

    `on_text` is called with the text so far after each token that does not end the answer; if it returns False, the answer ends.
    """

    prompt: Sequence[int]
    until: Sequence[str] = ()
    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    ignore_eos: bool = False  # generate max_new_tokens even past the end of text, for measuring speed
    on_text: Callable[[str], bool] | None = None
    priority: int = 0  # higher ones start first


@dataclass(frozen=True, slots=True)
class Generation:
    """The text before the first stop string, the generated ids, and why it ended: "stop", "eos", "length" or "cancelled"."""

    text: str
    tokens: list[int]
    finish_reason: str


@dataclass(slots=True, eq=False)
class _Sequence:
    index: int
    request: GenerateRequest
    cache: PagedCache
    rng: torch.Generator
    drafter: Drafter | None
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Step:
    """Logits [1 + guesses, V] and likeliest tokens, after a sequence's newest token and after each guess that was run with it."""

    sequence: _Sequence
    guesses: Sequence[int]
    logits_PV: Tensor  # noqa: N815
    likeliest: Sequence[int]


class Generator:
    """`decode` turns token ids into text; `stop_ids` are the tokens that end an answer."""

    def __init__(
        self,
        backend: Backend,
        decode: Callable[[list[int]], str],
        stop_ids: frozenset[int],
        max_running: int = 64,
        token_budget: int = 2048,
        cache_bytes: int | None = None,
        keep_prefixes: bool = True,
    ):
        """At most `max_running` sequences at a time, and as many as fit in `cache_bytes` (by default half of the free memory).

        A prefill pass takes at most `token_budget` tokens. Without `keep_prefixes` every prompt is computed in full.
        """
        self.backend, self.decode, self.stop_ids = backend, decode, stop_ids
        self.max_running, self.token_budget, self.keep_prefixes = max_running, token_budget, keep_prefixes
        self.pool = pool_for(backend, cache_bytes)
        self.usage = Usage()

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """Yield (index of the request, its Generation) as each ends, in any order.

        Raises ModelError, before any is run, for a request that exceeds the model's length or the memory for keys and values.
        """
        for request in requests:
            self._check(request)
        # the more urgent first; among equals, those that share a prefix together
        waiting = deque(sorted(range(len(requests)), key=lambda i: (-requests[i].priority, tuple(requests[i].prompt))))
        prefilling: list[_Sequence] = []
        running: list[_Sequence] = []
        try:
            while waiting or prefilling or running:
                room = self.max_running - len(prefilling) - len(running)
                # in groups: a prefill reads all weights, even for one short question
                if room >= self.max_running // 4 or not running:
                    prefilling += self._admit(requests, waiting, prefilling, room)
                stepped = self._prefill(prefilling)
                if running:
                    stepped += self._decode_step(running)
                prefilling = [s for s in prefilling if s.cache.length < len(s.request.prompt)]
                running = [step.sequence for step in stepped]
                for step in stepped:
                    if generation := self._take(step):
                        running.remove(step.sequence)
                        step.sequence.cache.close()
                        yield step.sequence.index, generation
        finally:
            for sequence in (*prefilling, *running):
                sequence.cache.close()

    def _check(self, request: GenerateRequest) -> None:
        longest = len(request.prompt) + request.max_new_tokens
        if not request.prompt or request.max_new_tokens < 1:
            raise ModelError("a generation request needs a prompt of at least one token and max_new_tokens >= 1")
        if longest > self.backend.config.max_seq_len:
            raise ModelError(
                f"prompt of {len(request.prompt)} tokens + max_new_tokens {request.max_new_tokens} "
                f"exceeds the model's max_seq_len of {self.backend.config.max_seq_len}"
            )
        if longest > self.pool.num_pages * PAGE:
            room, gigabytes = self.pool.num_pages * PAGE, self.pool.memory.num_bytes / 1e9
            raise ModelError(
                f"prompt of {len(request.prompt)} tokens + max_new_tokens {request.max_new_tokens} exceeds the "
                f"{room} tokens whose keys and values fit into {gigabytes:.2f} GB; ask for less"
            )

    def _admit(
        self, requests: Sequence[GenerateRequest], waiting: deque[int], prefilling: Sequence[_Sequence], room: int
    ) -> list[_Sequence]:
        """Take requests from `waiting` while there is room, up to one whose prefix is still being computed, which has to wait."""
        admitted: list[_Sequence] = []
        while waiting and len(admitted) < room:
            request = requests[waiting[0]]
            # the last token is left out, so that every sequence has something to run
            prefix = request.prompt[:-1] if self.keep_prefixes else ()
            known = self.pool.find(prefix)
            if any(num_shared(s.request.prompt, prefix) >= known.length + MIN_SHARED for s in (*prefilling, *admitted)):
                break
            # the last new token is never run
            cache = self.pool.admit(known, len(request.prompt) + request.max_new_tokens - 1)
            if cache is None:
                break
            self.usage.requested += len(request.prompt)
            # in speed measurements on random tokens the model repeats itself, and every guess would be right
            drafter = Drafter(request.prompt) if self.backend.drafts and not request.ignore_eos else None
            rng = torch.Generator().manual_seed(request.seed)
            admitted.append(_Sequence(waiting.popleft(), request, cache, rng, drafter))
        return admitted

    def _prefill(self, prefilling: Sequence[_Sequence]) -> list[_Step]:
        """Run the next tokens of these prompts; returns a step for each prompt that is done."""
        budget = self.token_budget
        new, ready, wanted = [], [], []
        for sequence in prefilling:
            prompt, begin = sequence.request.prompt, sequence.cache.length
            end = min(len(prompt), begin + budget)
            if begin == end:
                break
            budget -= end - begin
            new.append((prompt[begin:end], sequence.cache))
            if end == len(prompt):
                ready.append(sequence)
                wanted.append(self.token_budget - budget - 1)
        if not new:
            return []
        self.usage.computed += self.token_budget - budget
        hidden_PD = forward(self.backend, new, wanted)
        if self.keep_prefixes:
            for sequence in prefilling[: len(new)]:
                sequence.cache.remember(sequence.request.prompt)
        return self._steps(hidden_PD, ready, [[]] * len(ready)) if ready else []

    def _decode_step(self, running: list[_Sequence]) -> list[_Step]:
        """Run each sequence's newest token and the guesses at those after it."""
        more = max(0, FREE_ROWS - len(running)) // len(running)
        new, guesses = [], []
        for sequence in running:
            left = sequence.request.max_new_tokens - len(sequence.tokens) - 1  # the last new token is never run
            guesses.append(sequence.drafter.guess(more)[:left] if sequence.drafter else [])
            new.append(([sequence.tokens[-1], *guesses[-1]], sequence.cache))
        rows = [len(tokens) for tokens, _ in new]
        self.usage.requested += len(running)
        self.usage.computed += sum(rows)
        return self._steps(forward(self.backend, new, range(sum(rows))), running, guesses)

    @torch.inference_mode()
    def _steps(self, hidden_PD: Tensor, sequences: Sequence[_Sequence], guesses: Sequence[Sequence[int]]) -> list[_Step]:
        logits_PV = self.backend.logits(hidden_PD)
        rows = [1 + len(guess) for guess in guesses]
        likeliest_P1 = logits_PV.argmax(-1, keepdim=True)  # the first NaN of a row that has one
        largest_P1 = logits_PV.gather(-1, likeliest_P1).double()
        found_P2 = torch.cat((likeliest_P1.double(), largest_P1), dim=-1).cpu()  # together, so that a step synchronises with a GPU once
        if not found_P2.isfinite().all():
            raise ModelError("the model's logits are NaN or infinite, so no token can be chosen; use float32, or check the checkpoint")
        parts = zip(sequences, guesses, logits_PV.split(rows), found_P2[:, 0].long().split(rows), strict=True)
        return [_Step(sequence, guess, some_PV, some_P.tolist()) for sequence, guess, some_PV, some_P in parts]

    def _take(self, step: _Step) -> Generation | None:
        """Choose a token after each one that was run, while the guesses are right; returns a Generation once the sequence has ended."""
        sequence, first = step.sequence, step.sequence.cache.length - len(step.guesses)
        for n, (logits_V, likeliest) in enumerate(zip(step.logits_PV, step.likeliest, strict=True)):
            sampled = sequence.request.temperature > 0
            if generation := self._advance(sequence, _sample(logits_V, sequence) if sampled else likeliest):
                return generation
            if n < len(step.guesses) and sequence.tokens[-1] != step.guesses[n]:
                sequence.cache.length = first + n  # wrong guesses are overwritten
                break
        return None

    def _advance(self, sequence: _Sequence, token: int) -> Generation | None:
        """Add the next token; returns a Generation once the sequence has ended."""
        request = sequence.request
        if token in self.stop_ids and not request.ignore_eos:
            return Generation(self.decode(sequence.tokens), sequence.tokens, "eos")
        sequence.tokens.append(token)
        if sequence.drafter:
            sequence.drafter.add(token)
        # the whole text again, if it is needed: a token may complete a letter that earlier ones began
        at_end = len(sequence.tokens) == request.max_new_tokens
        text = self.decode(sequence.tokens) if at_end or request.on_text or self._stops(sequence) else ""
        cuts = [at for stop in request.until if (at := text.find(stop)) >= 0]
        if cuts:
            return Generation(text[: min(cuts)], sequence.tokens, "stop")
        if at_end:
            return Generation(text, sequence.tokens, "length")
        if request.on_text and not request.on_text(text):
            return Generation(text, sequence.tokens, "cancelled")
        return None

    def _stops(self, sequence: _Sequence) -> bool:
        """Whether a stop string may be in the newest tokens, of which only as many are read as could form one (a byte each).

        If these begin or end within a letter, some tokenizers drop all following bytes; then only the whole text tells.
        """
        until = sequence.request.until
        if not until:
            return False
        text = self.decode(sequence.tokens[-max(len(stop.encode()) for stop in until) - SLACK :])
        return "\ufffd" in text or any(stop in text for stop in until)


def _sample(logits_V: Tensor, sequence: _Sequence) -> int:
    # on the CPU and from its own generator, so that a sampled answer depends neither on other sequences nor on the device
    probs_V = torch.softmax(logits_V.cpu().double() / sequence.request.temperature, dim=-1)
    return int(torch.multinomial(probs_V, 1, generator=sequence.rng))
