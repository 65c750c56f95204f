"""How long a workload takes: the passes that the engine would make, at the speed that was measured.

Answers that are still to be generated are as long as those that are already there. Before there are any, they are as long as
`evalkit.reproduce.lengths` has them.
"""

import heapq
from collections.abc import Sequence

from evalkit.bench.roofline import Shape
from evalkit.lm.pass_speed import PassSpeed
from evalkit.runner.workload import Workload

RUNNING = 64  # answers at a time, as moe_lm's generator has them
REFILL = 16  # it takes new ones in groups
PROGRAM = 0.2  # seconds in the sandbox, about


def prefill(work: Workload, context: float, shape: Shape, speed: PassSpeed) -> float:
    """Prompts and continuations, in passes so large that only products count."""
    weights = shape.always + shape.sparse_layers * shape.top_k * shape.expert
    own = work.prompt_tokens / max(1, work.requests)  # tokens of a prompt that no other has computed: they follow those that are shared
    attention = 2 * shape.attention_width * shape.seen(context - own / 2)  # products a token, in weights' worth
    heads = shape.head * (work.scored_tokens + work.answers)
    return speed.a_token * (work.prompt_tokens * (weights + attention) + heads)


def decode(lengths: Sequence[float], context: float, shape: Shape, speed: PassSpeed) -> float:
    """Answers of these lengths, in this order, as the generator's steps take them in and let them go."""
    waiting, running = list(reversed(lengths)), list[float]()
    now = spent = 0.0
    mean = sum(lengths) / max(1, len(lengths))
    while waiting or running:
        if waiting and (RUNNING - len(running) >= REFILL or not running):
            while waiting and len(running) < RUNNING:
                heapq.heappush(running, now + waiting.pop())
        steps = running[0] - now
        spent += steps * step(len(running), context + mean / 2, shape, speed)
        now = heapq.heappop(running)
    return spent


def step(batch: int, context: float, shape: Shape, speed: PassSpeed) -> float:
    """Seconds of a decode step of so many sequences: weights that all visit, experts that some do, and everyone's own keys and values."""
    dense = (shape.always + shape.head) * speed(batch)
    visited = shape.experts_visited(batch)
    experts = shape.sparse_layers * visited * shape.expert * speed(batch * shape.top_k / visited) if visited else 0.0
    cache = batch * shape.seen(context) * shape.kv_per_token * speed(1) * shape.cached / shape.width
    return dense + experts + cache


def load(shape: Shape, speed: PassSpeed) -> float:
    """Seconds to read the weights and lay them out."""
    return shape.weights * speed.load
