"""The scheduler: generation and prompt scores, in steps between which requests join and leave.

A step is a prefill pass and a decode pass. The prefill pass takes at most `token_budget` tokens of prompts, of long ones at most `chunk`,
so that a stream never waits long for others' prompts; the decode pass runs the newest token of every answer and, if the back-end computes
them at no cost, drafts of the next ones (see `moe_lm.engine.drafts`). What prompts share is computed once.

Sequences are ordered by priority; then short ones (at most `SHORT` tokens so far) before long ones, those without a token first; then by
arrival. One that needs a page when none is free takes the last page of the last sequence in this order, which computes it again later. So
the first sequence always goes on, none waits for ever, and a short request begins with the next step, whatever is in flight.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, count

import torch
from torch import Tensor

from moe_lm.backends.base import PAGE, Backend
from moe_lm.engine.batch import HEAD_ROWS, forward
from moe_lm.engine.generating import Generating
from moe_lm.engine.in_flight import SHORT, InFlight, Vocabulary
from moe_lm.engine.not_finite import explain, suspect
from moe_lm.engine.pages import PagedCache, PagePool, pool_for
from moe_lm.engine.request import GenerateRequest, Generation, PromptScoresRequest
from moe_lm.engine.scoring import Scoring
from moe_lm.engine.usage import Usage
from moe_lm.errors import ModelError

FREE_ROWS = 24  # of a decode pass: these take hardly longer than one, since reading the weights dominates
RECENT = 8192  # tokens of prompts scored lately, whose scores are kept for others that begin alike


@dataclass(frozen=True, slots=True)
class _Part:
    """What one sequence has in a pass: its next tokens, with guesses at those that follow, and which of them need their hidden states."""

    sequence: InFlight
    cache: PagedCache
    tokens: list[int]
    wanted: range
    guesses: Sequence[int] = ()

    @classmethod
    def of(cls, sequence: InFlight, cache: PagedCache, end: int, guesses: Sequence[int] = ()) -> "_Part":
        """Its tokens ids[cache.length:end], and guesses."""
        wanted = sequence.wanted(cache.length, end)
        tokens = [*sequence.ids[cache.length : end], *guesses]
        return cls(sequence, cache, tokens, range(wanted.start, wanted.stop + len(guesses)), guesses)


class Generator:
    """`decode` turns token ids into text without special tokens; `stop_ids` are the tokens that end an answer.

    Not thread-safe: one thread submits, cancels and steps.
    """

    def __init__(
        self,
        backend: Backend,
        decode: Callable[[list[int]], str],
        stop_ids: frozenset[int],
        max_running: int = 64,
        token_budget: int = 2048,
        chunk: int | None = None,
        pool: PagePool | None = None,
        keep_prefixes: bool = True,
        special: Mapping[int, str] | None = None,
    ):
        """At most `max_running` sequences in a step, keys and values in `pool` (by default half of the free memory).

        `chunk`: tokens of long prompts in a step (None: no limit of their own). Without `keep_prefixes` every prompt is computed in full.
        `special`: the special tokens, by id, that stop strings may name.
        """
        self.backend, self.vocabulary = backend, Vocabulary(decode, stop_ids, dict(special or {}))
        self.max_running, self.keep_prefixes = max_running, keep_prefixes
        self.token_budget, self.chunk = token_budget, chunk or token_budget
        self.pool = pool or pool_for(backend)
        self.usage = Usage()
        self._arrivals = count()
        self.in_flight: list[InFlight] = []
        self._scored: deque[Scoring] = deque()  # lately

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """Yield (index of the request, its Generation) as each ends, in any order.

        Raises ModelError, before any is run, for a request that exceeds the model's length or the memory for keys and values.
        """
        for request in requests:
            self.check(request)
        # the more urgent first; among equals, those that share a prefix together
        waiting = deque(sorted(range(len(requests)), key=lambda i: (-requests[i].priority, tuple(requests[i].prompt))))
        running: dict[Generating, int] = {}
        try:
            while waiting or running:
                # in groups: a prefill reads all weights, even for one short question
                if self.max_running - len(running) >= self.max_running // 4 or not any(s.is_decoding for s in running):
                    while waiting and len(running) < self.max_running and self._has_room(requests[waiting[0]], running):
                        index = waiting.popleft()
                        running[self.submit(requests[index])] = index
                self.step()
                for sequence in [s for s in running if s.has_ended]:
                    yield running.pop(sequence), sequence.outcome()
        finally:
            for sequence in running:
                self.cancel(sequence)

    @property
    def unfinished(self) -> list[int]:
        """New tokens so far of each answer in flight."""
        return [len(sequence.tokens) for sequence in [*self.in_flight] if isinstance(sequence, Generating)]

    def check(self, request: GenerateRequest | PromptScoresRequest) -> None:
        """Raises ModelError for a request that cannot be answered, whatever else is in flight."""
        request.check()
        config, prompt = self.backend.config, request.prompt
        if not 0 <= min(prompt) <= max(prompt) < config.vocab_size:
            raise ModelError(f"the prompt holds token {max(prompt, key=abs)}; ids run from 0 to {config.vocab_size - 1}")
        new = request.max_new_tokens if isinstance(request, GenerateRequest) else 0
        asked, longest = f"prompt of {len(prompt)} tokens" + (f" + max_new_tokens {new}" if new else ""), len(prompt) + new
        if longest > config.max_seq_len:
            raise ModelError(f"{asked} exceeds the model's max_seq_len of {config.max_seq_len}")
        if longest > self.pool.num_tokens:
            raise ModelError(
                f"{asked} exceeds the {self.pool.num_tokens} tokens whose keys and values fit into "
                f"{self.pool.memory.num_bytes / 1e9:.2f} GB; ask for less"
            )

    def submit(self, request: GenerateRequest) -> Generating:
        """Put a request in flight; it joins at the next step. Raises ModelError as `check` does."""
        self.check(request)
        sequence = Generating(request, next(self._arrivals), self.vocabulary, self.backend.drafts)
        self.usage.requested += len(request.prompt)
        self.in_flight.append(sequence)
        return sequence

    def submit_scores(self, request: PromptScoresRequest) -> Scoring:
        """Put a prompt to be scored in flight; it joins at the next step. Raises ModelError as `check` does."""
        self.check(request)
        sequence = Scoring(request, next(self._arrivals))
        self.usage.requested += len(sequence.ids)
        self.in_flight.append(sequence)
        return sequence

    def cancel(self, sequence: InFlight) -> None:
        """Take a request out of flight, ended or not; its pages are free at once."""
        if sequence in self.in_flight:
            self.in_flight.remove(sequence)
        if sequence.cache:
            sequence.cache.close()
            sequence.cache = None

    def step(self) -> list[InFlight]:
        """Run the next tokens of those in flight; returns those that have ended, with a result or an error."""
        order = sorted(self.in_flight, key=lambda sequence: sequence.order)
        running = order[: self.max_running]
        self._start(running)
        decoding = {s for s in running if isinstance(s, Generating) and s.is_decoding}
        self._run(self._prefill(running, decoding, order))
        self._run(self._decode(running, decoding, order))
        ended = [sequence for sequence in self.in_flight if sequence.has_ended]
        for sequence in ended:
            self.cancel(sequence)
            if isinstance(sequence, Scoring) and sequence.error is None:
                self._keep_scores(sequence)
        return ended

    def _has_room(self, request: GenerateRequest, running: Mapping[Generating, int]) -> bool:
        """Do all pages that the request may need fit beside those that the running ones may still take?"""
        needed = -(-(len(request.prompt) + request.max_new_tokens - 1) // PAGE)
        if self.keep_prefixes:
            needed -= len(self.pool.find(request.prompt[:-1]).pages)
        return not running or needed <= self.pool.available - sum(sequence.pages_to_come for sequence in running)

    def _start(self, running: Sequence[InFlight]) -> None:
        """Give pages that are known to sequences that have none, unless others are about to compute more of their first tokens."""
        for at, sequence in enumerate(running):
            if sequence.cache or sequence.has_ended:
                continue
            if not self.keep_prefixes:
                sequence.cache = self.pool.admit(self.pool.find(()))
                continue
            if isinstance(sequence, Scoring):
                sequence.take_scores((*self._scored, *(s for s in running if isinstance(s, Scoring))))
            known = self.pool.find(sequence.reusable())
            is_short = len(sequence.ids) - known.length <= SHORT
            ahead = [s for s in running[:at] if s.cache and s.left > 1 and (s.is_short or not is_short)]  # short ones wait for short ones
            if not any(sequence.should_wait_for(other, known.length) for other in ahead):
                sequence.cache = self.pool.admit(known)

    def _prefill(self, running: Sequence[InFlight], decoding: Set[InFlight], order: Sequence[InFlight]) -> list[_Part]:
        """The next tokens of prompts, and of sequences whose pages were taken."""
        budget, chunk = self.token_budget, self.chunk
        parts: list[_Part] = []
        for at, sequence in enumerate(running):
            if sequence in decoding or sequence.has_ended or not sequence.cache:
                continue
            begin, room = sequence.cache.length, budget if sequence.is_short else min(budget, chunk)
            end = min(len(sequence.ids), begin + room)
            end = min(end, self._secure(sequence.cache, end, order[at + 1 :]))
            if end > begin:
                budget -= end - begin
                chunk -= 0 if sequence.is_short else end - begin
                parts.append(_Part.of(sequence, sequence.cache, end))
        return parts

    def _decode(self, running: Sequence[InFlight], decoding: Set[InFlight], order: Sequence[InFlight]) -> list[_Part]:
        """The newest token of every answer, and guesses at those after it."""
        more = max(0, FREE_ROWS - len(decoding)) // max(1, len(decoding))
        parts: list[_Part] = []
        for at, sequence in enumerate(running):
            # its last page may have been taken after all
            if sequence not in decoding or not isinstance(sequence, Generating) or not sequence.cache or not sequence.is_decoding:
                continue
            length = len(sequence.ids)
            if self._secure(sequence.cache, length, order[at + 1 :]) < length:
                continue
            guesses = sequence.guess(more)
            sequence.cache.grow(length + len(guesses))
            guesses = guesses[: sequence.cache.room - length]
            parts.append(_Part.of(sequence, sequence.cache, length, guesses))
        self.usage.requested += len(parts)
        return parts

    def _secure(self, cache: PagedCache, length: int, later: Sequence[InFlight]) -> int:
        """Take pages for so many tokens, from `later` sequences if need be, the last first; returns how many tokens there is room for."""
        while not cache.grow(length):
            victim = next((s.cache for s in reversed(later) if s.cache and s.cache.pages), None)
            if victim is None:
                break
            victim.shrink()
        return cache.room

    def _run(self, parts: Sequence[_Part]) -> None:
        """Run one pass. If it fails, each part is run alone, so that only the sequences at fault end with the error."""
        wanted, num_tokens = list[int](), 0
        for part in parts:
            wanted += [num_tokens + row for row in part.wanted]
            num_tokens += len(part.tokens)
        if not num_tokens:
            return
        try:
            hidden_PD = forward(self.backend, [(part.tokens, part.cache) for part in parts], wanted)
        except Exception as error:
            if len(parts) == 1:
                parts[0].sequence.error = error
            else:
                for part in parts:
                    self._run([part])
            return
        self.usage.computed += num_tokens
        answers: list[tuple[_Part, Tensor]] = []
        for part, some_PD in zip(parts, hidden_PD.split([len(part.wanted) for part in parts]), strict=True):
            sequence = part.sequence
            sequence.num_run += len(part.tokens)
            if self.keep_prefixes and part.cache.length - len(part.tokens) < len(sequence.prompt):
                part.cache.remember(sequence.prompt)
            if isinstance(sequence, Scoring) and part.wanted:
                with _fails_alone(sequence):
                    sequence.read(self.backend, some_PD)
            elif part.wanted:
                answers.append((part, some_PD))
        while answers:
            rows = list(accumulate(len(part.wanted) for part, _ in answers))
            together = max(1, bisect_right(rows, HEAD_ROWS))
            self._choose(answers[:together])
            del answers[:together]

    @torch.inference_mode()
    def _choose(self, answers: Sequence[tuple[_Part, Tensor]]) -> None:
        """Choose the next tokens of these answers, from the hidden states of their wanted tokens."""
        hidden_PD = torch.cat([some_PD for _, some_PD in answers])
        logits_PV = self.backend.logits(hidden_PD)
        likeliest_P1 = self.backend.argmax(logits_PV)[:, None]
        suspect_P1 = suspect(hidden_PD, logits_PV)[:, None]
        found_P2 = torch.cat((likeliest_P1, suspect_P1), dim=-1).cpu()  # together, so that a step synchronises with a GPU once
        rows = [len(part.wanted) for part, _ in answers]
        for (part, _), some_PV, some_P2 in zip(answers, logits_PV.split(rows), found_P2.split(rows), strict=True):
            sequence = part.sequence
            assert isinstance(sequence, Generating)
            with _fails_alone(sequence):
                for row in some_P2[:, 1].nonzero()[:1, 0].tolist():
                    if error := explain(self.backend, [*sequence.ids, *part.guesses[:row]], "no token can be chosen"):
                        raise error
                sequence.read(self.backend, some_PV, some_P2[:, 0].tolist(), part.guesses)

    def _keep_scores(self, sequence: Scoring) -> None:
        """Keep scores for prompts that begin alike, those of the latest ones."""
        if self.keep_prefixes:
            self._scored.append(sequence)
            while sum(len(scoring.scores) for scoring in self._scored) > RECENT:
                self._scored.popleft()


@contextmanager
def _fails_alone(sequence: InFlight) -> Iterator[None]:
    """What is raised within becomes the sequence's error; a panic of a Rust library is not an Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        sequence.result, sequence.error = None, error
