"""How many tokens a gate that stops by itself computes, with and without kept prefixes: figures of docs/statistics.md.

    EVALKIT_DATA=DIR python tests/simulations/staged_tokens.py [--task mmlu@qwen] [--model smollm2-135m] [--documents 468,1245,314]

The engine's own scorer puts the gate's blocks into passes, by the model's tokenizer and in the geometry of its keys and values; a back-end
that counts stands in for the arithmetic. Tokens are exact, and the same on any machine with as much memory for keys and values.
"""

import argparse
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate

import torch
from torch import Tensor

from evalkit.comparison.sequential_task import block_of
from evalkit.config import ModelSpec
from evalkit.data.sources import open_source
from evalkit.lm.native import NativeLM
from evalkit.runner.plan import plan
from evalkit.runner.workload import beginnings
from evalkit.stats.sequential import blocks
from evalkit.tasks import Doc, Loglikelihood
from evalkit.tasks.registry import resolve
from moe_lm.backends.base import PAGE, Backend, Batch
from moe_lm.config import ModelConfig
from moe_lm.engine.scorer import ScoreRequest

MARGIN = 0.01


class Counting(Backend):
    """Computes nothing. Its pages hold no keys and values, but are counted as if they did."""

    layers, norm, invariant = (), None, True

    def __init__(self, config: ModelConfig):
        super().__init__(config, torch.device("cpu"), torch.float32)

    @property
    def page_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (1,), (1,)

    @property
    def page_bytes(self) -> int:
        config = self.config
        return config.num_hidden_layers * 2 * config.num_key_value_heads * PAGE * config.head_dim * self.dtype.itemsize

    def forward(self, batch: Batch, wanted: Sequence[int]) -> Tensor:
        return torch.ones(len(wanted), 1)  # zeros would be taken for an overflow

    def first_layers(self, count: int) -> AbstractContextManager[None]:
        return nullcontext()

    def logits(self, hidden_PD: Tensor) -> Tensor:
        return torch.zeros(len(hidden_PD), 1)  # of token 0, the only one that is scored


def opened(spec: str, kv_memory: int, keep: bool) -> NativeLM:
    lm = NativeLM.open(ModelSpec(spec))
    lm.backend, lm.kv_memory = Counting(lm.config), kv_memory
    if keep:
        lm.keep_prefixes()
    return lm


def scored(lm: NativeLM, docs: Sequence[Doc], requests: Sequence[Loglikelihood]) -> list[ScoreRequest]:
    """The requests in tokens. Options of a letter each are one sequence with their context, so that one stands for all.

    A prompt's beginning is encoded once for all that have it, cut before blank lines, where no token goes on; some are held to the whole.
    """
    found, beginnings_ = [], dict[str, list[int]]()
    for i, (doc, request) in enumerate(zip(docs, requests, strict=True)):
        assert all(len(option.strip()) == 1 for option in request.continuations), "a task that scores letters"
        beginning, text = doc.prefix.rstrip(), request.context.rstrip()
        if beginning not in beginnings_:
            beginnings_[beginning] = lm.encode(beginning)
        ids = [*beginnings_[beginning], *lm.tokenizer.encode_plain(text[len(beginning) :])]
        assert i % 100 or ids == lm.encode(text)
        found.append(ScoreRequest(ids, [[0]]))
    return found


def computed(lm: NativeLM, parts: Sequence[Sequence[ScoreRequest]]) -> list[int]:
    """Tokens computed by the end of each part."""
    return [lm.tokens().computed for part in parts if len(list(lm.scorer.score(part))) == len(part)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mmlu@qwen")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--documents", default="468,1245,314", help="at which decisions fall; docs/statistics.md has the medians")
    parser.add_argument("--kv-memory", type=float, default=8.0, help="GB for keys and values")
    arguments = parser.parse_args(argv)
    decisions = [int(number) for number in arguments.documents.split(",")]
    memory = int(arguments.kv_memory * 1e9)

    found = plan(resolve(arguments.task), open_source(os.environ["EVALKIT_DATA"]), None)
    requests = [request for (request,) in found.requests if isinstance(request, Loglikelihood)]
    assert len(requests) == len(found.docs), "a task of one log-likelihood request a document"
    first = block_of(MARGIN, beginnings(requests), len(requests))
    order = blocks([f"{arguments.task} document {doc.id}" for doc in found.docs], [doc.group for doc in found.docs], first, 0)
    asked = scored(opened(arguments.model, memory, False), found.docs, requests)
    parts, seen = [], 0
    for block in order:
        if seen < max(decisions):
            parts.append([asked[i] for i in block])
            seen += len(block)
    ends = list(accumulate(map(len, parts)))
    tokens = {keep: dict(zip(ends, computed(opened(arguments.model, memory, keep), parts), strict=True)) for keep in (False, True)}
    (whole,) = computed(opened(arguments.model, memory, False), [asked])
    print(f"{arguments.task}, {arguments.model}: {len(requests):,} documents, {whole:,} tokens; blocks of {first}\n")
    print("| decided after | tokens, prefixes computed in every block | less than the whole task by | kept between blocks | less by |")
    print("|---|---|---|---|---|")
    for decision in decisions:
        at = min(ends, key=lambda n: abs(n - decision))  # the nearest end of a block
        print(f"| {at:,} | {' | '.join(f'{tokens[keep][at]:,} | {whole / tokens[keep][at]:.1f}' for keep in (False, True))} |")


if __name__ == "__main__":
    main()
