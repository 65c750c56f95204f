"""Decode steps on a GPU: the newest token of every sequence, as one CUDA graph if no part of a step needs the host.

B rows of a step (sequences, padded to a power of two or a multiple of `ROWS`), M pages a row of the table (a power of two), D hidden.

All inputs that change from step to step are in one buffer of integers, copied at once. A new (B, M, shared tokens) is first run launch
by launch, which compiles the kernels; the second time it is recorded, and from then on replayed. Rows that are only padding
have length 0 and write their keys and values to the spare page.
The first pages that all sequences share, a few-shot prompt's, are read once for several of them (see `paged_attention`).

Floor a step: all weights that the tokens visit and every key and value once; without graphs, some 10 us a launch on the host instead.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from moe_lm.backends.base import PAGE, Batch, KVPages
from moe_lm.backends.cuda.paged_attention import SPLIT, append, paged_attention
from moe_lm.model import Decoder

ROWS = 16


@dataclass(slots=True)
class _Step:
    """Integers of one padded size, [B * (3 + M)] int32; the hidden states [B, D]; once recorded, the graph between the two."""

    numbers: Tensor
    shared: int  # tokens
    graph: torch.cuda.CUDAGraph | None = None
    hidden_BD: Tensor | None = None  # noqa: N815


class DecodeSteps:
    """Steps of one model over one memory of pages. The Triton kernels run on a CPU too, interpreted, and without graphs."""

    def __init__(self, model: Decoder, memory: KVPages):
        # a weak reference: a back-end finds these steps by their memory, and they must not keep its gigabytes alive
        self.model, self.memory = model, weakref.proxy(memory)
        self.device = model.embed.weight.device
        self.recording = self.device.type == "cuda"
        self.steps: dict[tuple[int, int, int], _Step] = {}
        self.graph_memory = torch.cuda.graph_pool_handle() if self.recording else None

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Tensor:
        """Run one new token of every sequence. Returns the final hidden states [N, D], which the next step overwrites."""
        N = len(batch.tokens)
        B = N + -N % ROWS if N > ROWS else triton.next_power_of_2(N)
        M = triton.next_power_of_2(max(map(len, batch.pages)))
        shared = _num_shared(batch.pages) * PAGE // SPLIT * SPLIT
        first_time = (B, M, shared) not in self.steps
        if first_time:
            self.steps[B, M, shared] = _Step(torch.zeros(B * (3 + M), dtype=torch.int32, device=self.device), shared)
        step = self.steps[B, M, shared]
        step.numbers.copy_(self._numbers(batch, B, M), non_blocking=True)
        if self.recording and step.graph is None and not first_time:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.graph_memory):
                step.hidden_BD = self._run(step, B)
            step.graph = graph
        if step.graph is None:
            step.hidden_BD = self._run(step, B)
        else:
            step.graph.replay()
        assert step.hidden_BD is not None
        return step.hidden_BD[:N]

    def _numbers(self, batch: Batch, B: int, M: int) -> Tensor:
        """Tokens, positions and lengths [B] each, then the table [B, M]; the padding's name no page but the spare one."""
        padding = B - len(batch.tokens)
        tokens = [token for (token,) in batch.tokens] + [0] * padding
        positions = [*batch.starts] + [0] * padding
        lengths = [start + 1 for start in batch.starts] + [0] * padding
        spare = [self.memory.spare] * M
        table = [page for pages in batch.pages for page in [*pages, *spare][:M]] + spare * padding
        numbers = torch.tensor([*tokens, *positions, *lengths, *table], dtype=torch.int32)
        return numbers.pin_memory() if self.device.type == "cuda" else numbers

    def _run(self, step: _Step, B: int) -> Tensor:
        tokens_B, positions_B, lengths_B = step.numbers[: 3 * B].view(3, B)
        table_BM = step.numbers[3 * B :].view(B, -1)
        places_B = positions_B.long()

        config = self.model.config

        def attend(layer: int, q_BHd: Tensor, k_BJd: Tensor, v_BJd: Tensor) -> Tensor:
            k_PJNd, v_PJNd = self.memory.k[layer], self.memory.v[layer]
            append(k_PJNd, v_PJNd, table_BM, places_B, k_BJd, v_BJd)
            window, scale = config.window(layer), config.attention_scale
            return paged_attention(q_BHd, k_PJNd, v_PJNd, table_BM, lengths_B, window, step.shared, scale)

        return self.model(tokens_B.long(), places_B, attend, torch.arange(B, device=self.device))


def _num_shared(pages: Sequence[Sequence[int]]) -> int:
    """How many leading pages all sequences share."""
    if len(pages) == 1:
        return 0
    return next((i for i, some in enumerate(zip(*pages, strict=False)) if len(set(some)) > 1), 0)
