"""Greedy and sampled generation: shared prefixes computed once, finished sequences replaced by waiting ones at every step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice

import torch
from torch import Tensor

from moe_lm import prefix_tree
from moe_lm.batch import KVCache, decode_step, forward
from moe_lm.errors import ModelError
from moe_lm.model import Decoder
from moe_lm.prefix_walk import Caches, take, walk
from moe_lm.usage import Usage


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A prompt (token ids, not empty), the strings that end it, and how to choose tokens (temperature 0: greedy).

    `on_text` is given the text so far after each token that does not end the answer; where it returns False, the answer ends there.
    """

    prompt: Sequence[int]
    until: Sequence[str] = ()
    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    ignore_eos: bool = False  # go on to max_new_tokens, whatever the model says: for measuring speed
    on_text: Callable[[str], bool] | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """The text before the first stop string, the generated ids, and why it ended: "stop", "eos", "length" or "cancelled"."""

    text: str
    tokens: list[int]
    finish_reason: str


@dataclass(slots=True)
class _Running:
    index: int
    request: GenerateRequest
    cache: KVCache
    rng: torch.Generator
    tokens: list[int] = field(default_factory=list)


class Generator:
    """`decode` turns token ids into text; `stop_ids` are the tokens that end an answer."""

    def __init__(
        self,
        model: Decoder,
        decode: Callable[[list[int]], str],
        stop_ids: frozenset[int],
        max_running: int = 64,
        token_budget: int = 2048,
        cache_bytes: int = 4 << 30,
    ):
        """At most `max_running` sequences at a time, fewer where their caches would exceed `cache_bytes` (but never none)."""
        self.model, self.decode, self.stop_ids = model, decode, stop_ids
        self.max_running, self.token_budget = max_running, token_budget
        config = model.config
        token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * model.embed.weight.element_size()
        self.cache_tokens = cache_bytes // token_bytes
        self.usage = Usage()

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """Yield (index of the request, its Generation) as each ends, in any order."""
        for request in requests:
            self._check(request)
        longest = max((len(r.prompt) + r.max_new_tokens for r in requests), default=1)
        max_running = max(1, min(self.max_running, self.cache_tokens // longest))
        waiting = self._admit(requests)
        running: list[_Running] = []
        while True:
            room = max_running - len(running)
            # in groups: a prefill is padded to a whole tile, which one short question would waste
            admitted = list(islice(waiting, room)) if room >= max_running // 4 or not running else []
            for sequence, logits_V in self._prefill(admitted):
                if generation := self._advance(sequence, logits_V):
                    yield sequence.index, generation
                else:
                    running.append(sequence)
            if not running:
                if not admitted:
                    return
                continue
            still_running = []
            for sequence, logits_V in zip(running, self._decode_step(running), strict=True):
                if generation := self._advance(sequence, logits_V):
                    yield sequence.index, generation
                else:
                    still_running.append(sequence)
            running = still_running

    def _check(self, request: GenerateRequest) -> None:
        longest = len(request.prompt) + request.max_new_tokens
        if not request.prompt or request.max_new_tokens < 1:
            raise ModelError("a generation request needs a prompt of at least one token and max_new_tokens >= 1")
        if longest > self.model.config.max_seq_len:
            raise ModelError(
                f"prompt of {len(request.prompt)} tokens + max_new_tokens {request.max_new_tokens} "
                f"exceeds the model's max_seq_len of {self.model.config.max_seq_len}"
            )

    def _admit(self, requests: Sequence[GenerateRequest]) -> Iterator[_Running]:
        """Sequences with their shared prefix computed (once) and copied, as there is room for them."""
        # the tree leaves out each prompt's last token, so that every sequence has something left to run
        by_prefix: dict[tuple[int, ...], list[int]] = {}
        for i, request in enumerate(requests):
            by_prefix.setdefault(tuple(request.prompt[:-1]), []).append(i)
        sequences = [prefix for prefix in by_prefix if prefix]
        for i in by_prefix.get((), []):
            yield self._start(i, requests[i], None)
        roots = prefix_tree.build(sequences)
        while roots:
            root = roots.pop(0)
            caches: Caches = {}
            deepest: dict[int, KVCache | None] = dict.fromkeys(root.members)
            for pieces in walk(self.model, [root], self.token_budget, caches, leaves=False):
                self.usage.computed += sum(len(piece.tokens) for piece in pieces)
                forward(self.model, [(piece.tokens, piece.past) for piece in pieces], ())
                for piece in pieces:
                    deepest |= dict.fromkeys(piece.node.members, caches[id(piece.node)])
            for member, prefix in deepest.items():
                for i in by_prefix[sequences[member]]:
                    yield self._start(i, requests[i], prefix)

    def _start(self, index: int, request: GenerateRequest, prefix: KVCache | None) -> _Running:
        cache = KVCache.like(self.model, len(request.prompt) + request.max_new_tokens, prefix)
        return _Running(index, request, cache, torch.Generator().manual_seed(request.seed))

    def _prefill(self, admitted: list[_Running]) -> Iterator[tuple[_Running, Tensor]]:
        """Run the rest of each prompt; yields each sequence with the logits [V] of its first new token."""
        self.usage.requested += sum(len(s.request.prompt) for s in admitted)
        ready = [(sequence, sequence.cache.length) for sequence in reversed(admitted)]
        while ready:
            taken = take(ready, self.token_budget, lambda s: len(s.request.prompt))
            ends = list(accumulate(end - begin for _, begin, end in taken))
            self.usage.computed += ends[-1]
            done = [(s, row - 1) for (s, _, end), row in zip(taken, ends, strict=True) if end == len(s.request.prompt)]
            hidden_PD = forward(self.model, [(s.request.prompt[begin:end], s.cache) for s, begin, end in taken], [row for _, row in done])
            yield from zip([s for s, _ in done], self._logits(hidden_PD), strict=True)

    def _decode_step(self, running: list[_Running]) -> Tensor:
        """Logits [N, V] after each running sequence's newest token."""
        self.usage.requested += len(running)
        self.usage.computed += len(running)
        return self._logits(decode_step(self.model, [(s.tokens[-1], s.cache) for s in running]))

    @torch.inference_mode()
    def _logits(self, hidden_ND: Tensor) -> Tensor:
        return self.model.logits(hidden_ND)

    def _advance(self, sequence: _Running, logits_V: Tensor) -> Generation | None:
        """Choose the next token; a Generation once the sequence has ended."""
        request = sequence.request
        token = _choose(logits_V, request.temperature, sequence.rng)
        if token in self.stop_ids and not request.ignore_eos:
            return Generation(self.decode(sequence.tokens), sequence.tokens, "eos")
        sequence.tokens.append(token)
        # the whole text again: a token may end a letter that others began; not where nobody reads it
        at_end = len(sequence.tokens) == request.max_new_tokens
        text = self.decode(sequence.tokens) if at_end or request.until or request.on_text else ""
        cuts = [at for stop in request.until if (at := text.find(stop)) >= 0]
        if cuts:
            return Generation(text[: min(cuts)], sequence.tokens, "stop")
        if at_end:
            return Generation(text, sequence.tokens, "length")
        if request.on_text and not request.on_text(text):
            return Generation(text, sequence.tokens, "cancelled")
        return None


def _choose(logits_V: Tensor, temperature: float, rng: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    # on the CPU and from a generator of its own: a sampled answer depends neither on its neighbours nor on the device's stream
    probs_V = torch.softmax(logits_V.cpu().double() / temperature, dim=-1)
    return int(torch.multinomial(probs_V, 1, generator=rng))
