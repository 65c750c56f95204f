"""The roofline of a bench: the least time that this device could take, from its measured bandwidth and FLOP/s.

Prefill: every prompt token times every weight it visits, at the measured FLOP/s (or the weights' bytes, if those take longer).
Decode: each step reads the weights that its tokens visit and all cached keys and values, at the measured bandwidth. B answers
at a time visit E * (1 - (1 - k/E)^B) of E experts in expectation. No engine is faster; `share` is how close it comes.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from evalkit.lm.native import free_memory


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's work. Counts are of weights, not bytes; `width`: bytes per weight, on average; `cached`: per cached number."""

    width: float
    cached: int
    embedding: int  # one row is read per token
    head: int  # the output head, for the last token of a prompt and for each generated one
    always: int  # weights that every token visits, without embedding and head
    expert: int  # weights of one routed expert
    experts: int  # in a sparse layer
    top_k: int
    sparse_layers: int
    kv_per_token: int  # cached numbers per token
    attention_width: int  # query heads * head_dim, over all layers
    window: int | None = None  # a token attends to so many at most ..
    full_attention: float = 0.0  # .. but in this share of the layers, to all before it
    head_is_tied: bool = False

    @property
    def weights(self) -> int:
        """All of them; a tied head counted once."""
        heads = self.embedding if self.head_is_tied else self.embedding + self.head
        return heads + self.always + self.sparse_layers * self.experts * self.expert

    def seen(self, context: float) -> float:
        """How many of `context` tokens the next one attends to, on average over the layers."""
        limited = min(context, self.window) if self.window else context
        return limited + self.full_attention * (context - limited)

    def experts_visited(self, tokens: float) -> float:
        """Expected number of a layer's experts that so many tokens visit, for a router that spreads them evenly."""
        return self.experts * (1 - (1 - self.top_k / self.experts) ** tokens) if self.experts else 0.0

    def bytes_read(self, tokens: float) -> float:
        """Bytes of weights that a pass over so many tokens reads."""
        return self.width * (self.always + self.head + self.sparse_layers * self.experts_visited(tokens) * self.expert)

    def flops(self, context: float) -> float:
        """FLOPs of one token that attends to `context` tokens, without the head: 2 per weight, 4 per seen token and number of a query."""
        return 2 * (self.always + self.sparse_layers * self.top_k * self.expert) + 4 * self.attention_width * self.seen(context)


@dataclass(frozen=True, slots=True)
class Device:
    """Measured bytes and floating-point operations per second, and the bytes of free memory."""

    bandwidth: float
    flops: float
    free_memory: int


def floor_seconds(shape: Shape, device: Device, prompt_tokens: int, output_tokens: int, num_requests: int) -> float:
    """The least time for so many requests, all submitted at once. `device.free_memory` is before the weights are loaded.

    As many answers run at a time as their caches fit in memory, staggered, so that each is half written on average.
    """
    context = prompt_tokens + (output_tokens - 1) / 2
    room = (device.free_memory - shape.weights * shape.width) / (context * shape.kv_per_token * shape.cached)
    at_once = min(num_requests, max(1.0, room))
    arithmetic = num_requests * (prompt_tokens * shape.flops(prompt_tokens / 2) + 2 * shape.head) / device.flops
    prefill = max(arithmetic, shape.bytes_read(num_requests * prompt_tokens) / device.bandwidth)
    read = shape.bytes_read(at_once) + at_once * shape.seen(context) * shape.kv_per_token * shape.cached
    step = max(read / device.bandwidth, at_once * (shape.flops(context) + 2 * shape.head) / device.flops)
    # the first new token comes out of the prefill
    return prefill + (output_tokens - 1) * num_requests / at_once * step


def measure(device: str, dtype: str) -> Device:
    """Measure what "cpu" or "cuda" does at best, and its free memory."""
    free = free_memory(device)
    is_gpu = device == "cuda"
    return Device(bandwidth(device, (1 << 30) if is_gpu else (1 << 28)), product_flops(device, dtype, 8192 if is_gpu else 2048), free)


def bandwidth(device: str, array_bytes: int) -> float:
    """Bytes per second: the best of several triads (a = b + s * c) and copies of arrays far larger than a cache."""
    import torch

    a, b, c = (torch.ones(array_bytes // 4, device=device) for _ in range(3))
    triad = _best(lambda: torch.add(b, c, alpha=0.5, out=a), device)
    copy = _best(lambda: a.copy_(b), device)
    return max(3 * array_bytes / triad, 2 * array_bytes / copy)


def product_flops(device: str, dtype: str, side: int) -> float:
    """FLOP/s: the best of several products of square matrices; of int8, the faster of integer ones and float32's."""
    import torch

    if dtype == "int8":
        x8, y8 = (torch.randint(-127, 128, (side, side), dtype=torch.int8, device=device) for _ in range(2))
        return max(2 * side**3 / _best(lambda: torch._int_mm(x8, y8), device), product_flops(device, "float32", side))
    x, y = (torch.randn(side, side, device=device).to(getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(x)
    return 2 * side**3 / _best(lambda: torch.mm(x, y, out=out), device)


def _best(work: Callable[[], object], device: str, repeats: int = 7) -> float:
    """The least seconds of several runs; the first is a warm-up and does not count."""
    import torch

    synchronize: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    best = math.inf
    for repeat in range(repeats + 1):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        if repeat:
            best = min(best, time.perf_counter() - start)
    return best
