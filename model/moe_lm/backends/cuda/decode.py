"""Decode steps on a GPU: the newest token of every sequence, as one CUDA graph where nothing of a step needs the host.

B rows of a step (sequences, padded to a power of two or a multiple of `tiles.ROWS`), M pages a row of the table (a power of two), D hidden.

What changes from step to step lies in one buffer of integers, copied at once. A (B, M, shared tokens) that comes up is run launch by
launch, which compiles what is not yet compiled; the second time it is recorded, and replayed from then on. Rows that are only padding
have length 0 and write their keys and values to the pool's spare page.
The first pages that all sequences share, a few-shot prompt's, are read once for several of them (see `kernels.paged_attention`).

Floor a step: all weights that the tokens visit and every key and value once; without graphs, some 10 us a launch on the host instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from moe_lm.backends.cuda.paged_attention import SPLIT, append, paged_attention
from moe_lm.backends.tiles import ROWS
from moe_lm.engine.pages import PAGE, PagedCache, PagePool
from moe_lm.model import Decoder, MoE


@dataclass(slots=True)
class _Step:
    """Integers of one padded size, [B * (3 + M)] int32; the hidden states [B, D]; once recorded, the graph between the two."""

    numbers: Tensor
    shared: int  # tokens
    graph: torch.cuda.CUDAGraph | None = None
    hidden_BD: Tensor | None = None  # noqa: N815


class GpuDecode:
    """Steps of one model over one pool. Its Triton kernels run on a CPU too, interpreted, and without graphs."""

    def __init__(self, model: Decoder, pool: PagePool):
        self.model, self.pool = model, pool
        self.device = model.embed.weight.device
        # other tenants of the experts' seat ask the host which experts were chosen
        alone = all(module.whole is not None for module in model.modules() if isinstance(module, MoE))
        self.recording = self.device.type == "cuda" and alone
        self.steps: dict[tuple[int, int, int], _Step] = {}
        self.memory = torch.cuda.graph_pool_handle() if self.recording else None

    @torch.inference_mode()
    def __call__(self, new: Sequence[tuple[int, PagedCache]]) -> Tensor:
        """Run one new token of every sequence after its cache. Returns the final hidden states [N, D], good until the next step."""
        caches = [cache for _, cache in new]
        for cache in caches:
            cache.grow(cache.length + 1)
        N = len(new)
        B = N + -N % ROWS if N > ROWS else triton.next_power_of_2(N)
        M = triton.next_power_of_2(max(len(cache.pages) for cache in caches))
        shared = _num_shared(caches) * PAGE // SPLIT * SPLIT
        first_time = (B, M, shared) not in self.steps
        if first_time:
            self.steps[B, M, shared] = _Step(torch.zeros(B * (3 + M), dtype=torch.int32, device=self.device), shared)
        step = self.steps[B, M, shared]
        step.numbers.copy_(self._numbers(new, B, M), non_blocking=True)
        if self.recording and step.graph is None and not first_time:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.memory):
                step.hidden_BD = self._run(step, B)
            step.graph = graph
        if step.graph is None:
            step.hidden_BD = self._run(step, B)
        else:
            step.graph.replay()
        for cache in caches:
            cache.length += 1
        assert step.hidden_BD is not None
        return step.hidden_BD[:N]

    def _numbers(self, new: Sequence[tuple[int, PagedCache]], B: int, M: int) -> Tensor:
        """Tokens, positions and lengths [B] each, then the table [B, M]; those of the padding name no token but the spare page's."""
        padding = B - len(new)
        tokens = [token for token, _ in new] + [0] * padding
        positions = [cache.length for _, cache in new] + [0] * padding
        lengths = [cache.length + 1 for _, cache in new] + [0] * padding
        spare = [self.pool.spare] * M
        table = [page for _, cache in new for page in (cache.pages + spare)[:M]] + spare * padding
        numbers = torch.tensor([*tokens, *positions, *lengths, *table], dtype=torch.int32)
        return numbers.pin_memory() if self.device.type == "cuda" else numbers

    def _run(self, step: _Step, B: int) -> Tensor:
        tokens_B, positions_B, lengths_B = step.numbers[: 3 * B].view(3, B)
        table_BM = step.numbers[3 * B :].view(B, -1)
        places_B = positions_B.long()

        def attend(layer: int, q_BHd: Tensor, k_BJd: Tensor, v_BJd: Tensor) -> Tensor:
            k_PJNd, v_PJNd = self.pool.k[layer], self.pool.v[layer]
            append(k_PJNd, v_PJNd, table_BM, places_B, k_BJd, v_BJd)
            return paged_attention(q_BHd, k_PJNd, v_PJNd, table_BM, lengths_B, self.model.config.sliding_window, step.shared)

        return self.model(tokens_B.long(), places_B, attend, torch.arange(B, device=self.device))


def _num_shared(caches: Sequence[PagedCache]) -> int:
    """First pages that all of several sequences lie on."""
    if len(caches) == 1:
        return 0
    return next((i for i, pages in enumerate(zip(*(cache.pages for cache in caches), strict=False)) if len(set(pages)) > 1), 0)
