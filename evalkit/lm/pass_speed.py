"""How long a pass of so many tokens takes on this device, measured on layers of random weights within a second or two.

A decoder is the same matrices over and over, so a pass of B tokens costs about as much a weight in every model with matrices as wide:
reading it where B is small, B products with it where B is large. Matrices wider than `WIDEST` are no quicker.
"""

import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.config import ModelSpec

TOKENS = (1, 4, 16, 64, 256)  # in a pass; beyond them the cost is proportional
BEFORE = 128  # tokens that a decode step's sequences hold already
KV_MEMORY = 1 << 28  # bytes
BUSY = 0.25  # of the time, with other programs: an idle device's own interruptions are some hundredths
WIDEST = 1024  # hidden numbers; one layer then has 15 million weights, more than a CPU's cache holds
HEAD = 64


@dataclass(frozen=True, slots=True)
class Like:
    """What a model's speed depends on besides the device: `kind`, the GGUF type or the groups that its quantised weights are computed in,
    and the `width` of the layers that are measured in place of its own.
    """

    kind: str | None = None
    width: int = WIDEST

    @classmethod
    def of(cls, kind: str | None, hidden_size: int) -> "Like":
        """Of a model; widths are whole blocks of every GGUF type."""
        return cls(kind, min(WIDEST, max(256, hidden_size // 256 * 256)))

    def __str__(self) -> str:
        return f"width {self.width}" + (f", {self.kind} weights" if self.kind else "")

    @property
    def layers(self) -> Mapping[str, Any]:
        """The configuration of as many layers as have the weights of one of `WIDEST`."""
        return {
            "family": "qwen2",
            "vocab_size": 4096,
            "hidden_size": self.width,
            "num_hidden_layers": round((WIDEST / self.width) ** 2),
            "num_attention_heads": self.width // HEAD,
            "num_key_value_heads": self.width // (4 * HEAD),
            "head_dim": HEAD,
            "intermediate_size": 4 * self.width,
            "max_seq_len": 4096,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "qkv_bias": True,
        }


@dataclass(frozen=True, slots=True)
class PassSpeed:
    """Seconds a weight of a pass of so many tokens (increasing), and seconds a weight of laying it out when a model is loaded.

    `waited` is the share of that time, 0 to 1, in which the processor did other programs' work: on an idle device the rest is left.
    """

    points: tuple[tuple[int, float], ...]
    load: float
    waited: float = 0.0

    @property
    def is_of_a_busy_device(self) -> bool:
        return self.waited > BUSY

    def __call__(self, tokens: float) -> float:
        """Seconds a weight of a pass of `tokens`, between the measured points in proportion."""
        sizes = [size for size, _ in self.points]
        if tokens >= sizes[-1]:
            return self.a_token * tokens
        at = max(1, bisect_left(sizes, tokens))
        (before, low), (after, high) = self.points[at - 1], self.points[at]
        return low + (high - low) * (max(tokens, before) - before) / (after - before)

    @property
    def a_token(self) -> float:
        """Seconds a weight and token of a long prompt."""
        size, seconds = self.points[-1]
        return seconds / size


def measure(model: ModelSpec, like: Like) -> PassSpeed:
    """Measure the device, precision and kernels that `model` would run with."""
    import torch

    from evalkit.lm.native import NativeLM, device_of, dtype_of
    from moe_lm.checkpoint.random_weights import in_random_blocks, random_checkpoint
    from moe_lm.config import ModelConfig
    from moe_lm.count import count
    from moe_lm.engine.batch import forward

    device = device_of(model)
    config = ModelConfig(**like.layers)
    checkpoint = in_random_blocks(random_checkpoint(config), like.kind) if like.kind else random_checkpoint(config)
    lm = NativeLM(checkpoint, "random", None, dtype_of(model), device, model.kernel)
    lm.kv_memory = KV_MEMORY
    begun = time.perf_counter()
    backend, pool = lm.backend, lm.pool
    weights = count(config).activated_non_embedding
    load = (time.perf_counter() - begun) / count(config).total

    def once(lengths: Sequence[int], before: int) -> tuple[float, float]:
        """Seconds of a pass, and those of them in which this thread computed."""
        caches = [pool.fork(None, before + length) for length in lengths]
        for cache in caches:
            cache.length = before
        begun, computed = time.perf_counter(), time.thread_time()
        new = [([0] * length, cache) for length, cache in zip(lengths, caches, strict=True)]
        hidden = forward(backend, new, range(sum(lengths)))  # all are wanted: the last layer computes no others
        hidden.cpu()  # a GPU has done its work by then
        seconds, computed = time.perf_counter() - begun, time.thread_time() - computed
        for cache in caches:
            cache.close()
        return seconds, computed

    def best(tokens: int) -> tuple[float, float]:
        is_prompt = tokens == TOKENS[-1]
        lengths, before = ([tokens], 0) if is_prompt else ([1] * tokens, BEFORE)
        return min(once(lengths, before) for _ in range(2 if is_prompt else 4))

    with torch.inference_mode():
        passes = [best(tokens) for tokens in TOKENS]
    points = tuple((tokens, seconds / weights) for tokens, (seconds, _) in zip(TOKENS, passes, strict=True))
    return PassSpeed(points, load, waited(passes) if device == "cpu" else 0.0)  # for a GPU, the thread waits anyway


def waited(passes: Sequence[tuple[float, float]]) -> float:
    """The share of these passes' seconds in which their thread did not compute, though it had nothing to wait for."""
    return max(0.0, 1 - sum(computed for _, computed in passes) / sum(seconds for seconds, _ in passes))
