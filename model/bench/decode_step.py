"""Benchmark of a whole decode step as the generator takes it on a GPU: all layers and the output head, in CUDA graphs (`triton`) and
launch by launch. Random weights of the two models whose ratio is published.

Floors: every weight that the step's tokens visit, by a router that spreads them evenly, and every key and value, read once.
"""

from dataclasses import replace

import measure
import torch

from evalkit.lm.shape import shape_of
from moe_lm import known
from moe_lm.backends.base import PAGE
from moe_lm.backends.cuda.backend import TritonBackend
from moe_lm.backends.cuda.decode import DecodeSteps
from moe_lm.checkpoint.random_weights import random_checkpoint
from moe_lm.config import MoEConfig
from moe_lm.engine.batch import forward
from moe_lm.engine.pages import PagePool

MODELS = ("qwen1.5-moe-a2.7b", "qwen1.5-7b")
CASES = ((1, 1500), (8, 1500), (32, 1500), (128, 1000), (128, 1500), (128, 2000))
TINY = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}


def main() -> None:
    options = measure.arguments(__doc__ or "")
    limit, rows = measure.limits(options.dtype), []
    backend = None
    for name in MODELS:
        config = known.config(name)
        if measure.TINY:
            moe = MoEConfig(5, 2, 16, 32, norm_topk_prob=False) if config.moe else None
            config = replace(config, **TINY, intermediate_size=48, moe=moe)
        del backend  # two do not fit
        backend = TritonBackend(random_checkpoint(config).read(options.dtype, options.device.type, None))
        shape = shape_of(config, options.dtype.itemsize, options.dtype.itemsize)
        for B, S in ((2, 130),) if measure.TINY else CASES:
            cached = B * shape.seen(S) * shape.kv_per_token * shape.cached
            torch.cuda.empty_cache()
            if options.device.type == "cuda" and 1.1 * cached > torch.cuda.mem_get_info()[0]:
                print(f"{name}, B = {B}, S = {S}: the keys and values do not fit, not run")
                continue
            floor = measure.floors(shape.bytes_read(B) + cached, B * (shape.flops(S) + 2 * shape.head), limit)
            rows.append(measure.row({"model": name, "B": B, "S": S}, floor, times(backend, B, S, options.repeats)))
    measure.report("decode_step", rows, limit, options)


def times(backend: TritonBackend, B: int, S: int, repeats: int) -> dict[str, float]:
    """Median microseconds of a step of B sequences with S tokens behind them, to the tokens on the host."""
    pool = PagePool(backend, B * (S // PAGE + 1))
    new = [([i % backend.config.vocab_size], pool.fork(None, S + 1)) for i in range(B)]
    for _, cache in new:
        cache.grow(S)
    graphs, launches = DecodeSteps(backend.model, pool.memory), DecodeSteps(backend.model, pool.memory)
    launches.recording = False

    def run(steps: DecodeSteps) -> list[int]:
        backend.steps[pool.memory] = steps
        for _, cache in new:
            cache.length = S
        return backend.logits(forward(backend, new, range(B))).argmax(-1).tolist()

    run(graphs)  # it is recorded the second time
    return measure.medians({"triton": lambda: run(graphs), "launches": lambda: run(launches)}, repeats)


if __name__ == "__main__":
    main()
