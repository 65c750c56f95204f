"""Answers from llama.cpp: several at a time, each in a slot, and a prompt begins with what another slot has already computed of it.

Tokens are chosen, and answers end, by moe_lm's own rules, so that both engines differ in their logits alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from evalkit.lm.llama_cpp.context import PASS, Context, Model, Part, Settings
from moe_lm.engine.generating import Generating
from moe_lm.engine.in_flight import WORTH_WAITING, Vocabulary
from moe_lm.engine.prefix_tree import num_shared
from moe_lm.engine.request import GenerateRequest, Generation
from moe_lm.engine.sampling import sample
from moe_lm.engine.usage import Usage
from moe_lm.errors import ModelError, NotFinite

SLOTS = 16


@dataclass(slots=True)
class _Slot:
    """A sequence of the context: the tokens that it holds, and the answer that is being made in it."""

    sequence: int
    held: list[int] = field(default_factory=list)
    answer: Generating | None = None

    @property
    def to_hold(self) -> Sequence[int]:
        """What it holds, or soon will."""
        return self.answer.ids if self.answer else self.held

    @property
    def left(self) -> Sequence[int]:
        """The tokens to run before the answer's next one."""
        return self.answer.ids[len(self.held) :] if self.answer else ()


class Generator:
    """Generates on a model that is loaded. What it answers may depend on what is asked beside it."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        vocabulary: Vocabulary,
        limit: int,
        slots: int = SLOTS,
        keep_prefixes: bool = True,
        memory: int | None = None,
    ):
        """`limit`: the most tokens that the model runs in a sequence; `memory`: tokens that there is room for, in all slots together."""
        self.model, self.settings, self.vocabulary, self.limit, self.slots = model, settings, vocabulary, limit, slots
        self.keep_prefixes, self.memory = keep_prefixes, memory
        self.usage = Usage()
        self._slots: list[_Slot] = []

    @property
    def unfinished(self) -> list[int]:
        """New tokens so far of each answer in the making."""
        return [len(slot.answer.tokens) for slot in self._slots if slot.answer]

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """Yield (index, answer) as each ends. Raises ModelError if a request does not fit the model."""
        for request in requests:
            self._check(request)
        if not requests:
            return
        # prompts that share much stand beside each other
        order = sorted(range(len(requests)), key=lambda i: list(requests[i].prompt))
        waiting = deque(Generating(requests[i], i, self.vocabulary) for i in order)
        longest = max(answer.longest for answer in waiting)
        slots = min(self.slots, len(requests), max(1, self.memory // longest) if self.memory else len(requests))
        context = Context(self.model, self.settings, longest, slots, unified=False)
        self._slots = [_Slot(i) for i in range(slots)]
        try:
            while waiting or any(slot.answer for slot in self._slots):
                yield from self._step(context, waiting)
        finally:
            self._slots = []

    def _check(self, request: GenerateRequest) -> None:
        request.check()
        if (length := len(request.prompt) + request.max_new_tokens) > self.limit:
            raise ModelError(f"a request of {length} tokens, answer included, exceeds the model's max_seq_len of {self.limit}; shorten it")

    def _step(self, context: Context, waiting: deque[Generating]) -> Iterator[tuple[int, Generation]]:
        """One pass: the newest token of every answer, and as much of prompts as there is room for."""
        parts: list[Part] = []
        room = PASS
        for slot in sorted(self._slots, key=lambda slot: len(slot.left)):
            room -= self._add(parts, slot, room)
        while waiting and room > 0 and (free := self._place(context, waiting[0])):
            free.answer = waiting.popleft()
            self.usage.requested += len(free.answer.prompt)
            room -= self._add(parts, free, room)
        by_sequence = {slot.sequence: slot for slot in self._slots}
        for part in parts:
            by_sequence[part.sequence].held += part.tokens
            self.usage.computed += len(part.tokens)
        for part, _, logits_V in context.run(parts):
            slot = by_sequence[part.sequence]
            answer = slot.answer
            assert answer is not None
            answer.advance(_choose(logits_V, answer))
            self.usage.requested += 1
            if answer.result is not None:
                slot.answer = None
                if not self.keep_prefixes:
                    slot.held = slot.held[: context.cut(slot.sequence, 0)]
                yield answer.arrival, answer.result

    def _add(self, parts: list[Part], slot: _Slot, room: int) -> int:
        """Run what the slot has left, as far as there is room; returns how many tokens that are."""
        tokens = slot.left[:room]
        if tokens:
            is_last = len(tokens) == len(slot.left)
            parts.append(Part(slot.sequence, len(slot.held), tokens, [len(tokens) - 1] if is_last else ()))
        return len(tokens)

    def _place(self, context: Context, answer: Generating) -> _Slot | None:
        """A free slot that holds what is known of the prompt, and nothing else.

        None if there is none, or if a slot is about to compute more of the prompt than is known.
        """
        free = [slot for slot in self._slots if slot.answer is None]
        if not free:
            return None
        prompt = answer.prompt[:-1]  # the last token is run in any case, for its logits
        known = {slot.sequence: num_shared(slot.held, prompt) if self.keep_prefixes else 0 for slot in self._slots}
        source = max(self._slots, key=lambda slot: known[slot.sequence])
        most = known[source.sequence]
        if self.keep_prefixes and any(num_shared(slot.to_hold, prompt) >= most + WORTH_WAITING for slot in self._slots):
            return None
        target = max(free, key=lambda slot: (known[slot.sequence], -len(slot.held)))
        if known[target.sequence] + WORTH_WAITING <= most:
            context.cut(target.sequence, 0)
            context.copy(source.sequence, target.sequence)
            target.held = list(source.held)
            known[target.sequence] = most
        if len(target.held) > known[target.sequence]:
            target.held = target.held[: context.cut(target.sequence, known[target.sequence])]
        return target


def _choose(logits_V: np.ndarray, answer: Generating) -> int:
    """The answer's next token. Raises NotFinite for logits that are no numbers."""
    likeliest = int(logits_V.argmax())
    if not np.isfinite(logits_V[likeliest]):
        raise NotFinite("llama.cpp computed a logit that is NaN or infinite, so no token can be chosen; check the file, or run it natively")
    if not answer.request.temperature:
        return likeliest
    return sample(torch.from_numpy(logits_V), answer.request, answer.rng)
