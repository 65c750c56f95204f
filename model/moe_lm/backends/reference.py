"""The decoder in plain torch, unchanged, on any device and in any precision: the reference for all other back-ends.

It serves precisions that the kernels do not support, and machines without kernels. A BLAS chooses its kernel, and with it the order of its
sums, by the shape of the product: no layout invariance is promised.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_lm.backends.base import PAGE, Backend, Batch
from moe_lm.model import Attend, Decoder


class ReferenceBackend(Backend):
    invariant = False

    def __init__(self, model: Decoder):
        weight = model.embed.weight
        super().__init__(model.config, weight.device, weight.dtype)
        self.model = model
        self.layers, self.norm = model.layers, model.norm

    @contextmanager
    def first_layers(self, count: int) -> Iterator[None]:
        self.model.layers, self.model.norm = self.layers[:count], nn.Identity()  # type: ignore[assignment]
        try:
            yield
        finally:
            self.model.layers, self.model.norm = self.layers, self.norm

    @torch.inference_mode()
    def forward(self, batch: Batch, wanted: Sequence[int]) -> Tensor:
        tokens_T, positions_T, wanted_P = (
            torch.tensor(x, dtype=torch.int64, device=self.device) for x in (batch.flat, batch.positions, wanted)
        )
        return self.model(tokens_T, positions_T, self._attend(batch, positions_T), wanted_P)

    @torch.inference_mode()
    def logits(self, hidden_PD: Tensor) -> Tensor:
        return self.model.logits(hidden_PD)

    def _attend(self, batch: Batch, positions_T: Tensor) -> Attend:
        """Sequence by sequence, over the keys and values gathered from its pages."""
        lengths = [len(tokens) for tokens in batch.tokens]
        rows = zip(batch.pages, batch.starts, lengths, strict=True)
        places = [pages[position // PAGE] for pages, start, n in rows for position in range(start, start + n)]
        page_T, slot_T = torch.tensor(places, device=self.device), positions_T % PAGE
        ends = [0, *accumulate(lengths)]

        def attend(layer: int, q_THd: Tensor, k_TJd: Tensor, v_TJd: Tensor) -> Tensor:
            k_pages, v_pages, window = batch.memory.k[layer], batch.memory.v[layer], self.config.window(layer)
            k_pages[page_T, :, slot_T], v_pages[page_T, :, slot_T] = k_TJd, v_TJd
            out = []
            for (begin, end), start, pages in zip(pairwise(ends), batch.starts, batch.pages, strict=True):
                length = start + end - begin
                k_JSd, v_JSd = (x[pages].transpose(0, 1).flatten(1, 2)[:, :length] for x in (k_pages, v_pages))
                out.append(self._causal(q_THd[begin:end].transpose(0, 1), k_JSd, v_JSd, start, window).transpose(0, 1))
            return torch.cat(out)

        return attend

    def _causal(self, q_HTd: Tensor, k_JSd: Tensor, v_JSd: Tensor, start: int, window: int | None) -> Tensor:
        """Attention of positions start..start+T-1 to themselves and those before, as far as the window reaches. [H, T, d]"""
        query_T1 = torch.arange(start, k_JSd.shape[1], device=self.device)[:, None]
        key_S = torch.arange(k_JSd.shape[1], device=self.device)
        visible_TS = key_S <= query_T1
        if window:
            visible_TS &= key_S > query_T1 - window
        q, k, v, scale = q_HTd[None], k_JSd[None], v_JSd[None], self.config.attention_scale
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible_TS, scale=scale, enable_gqa=True)[0]
