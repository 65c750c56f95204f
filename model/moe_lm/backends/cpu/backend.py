"""The CPU's back-end: a decoder on the compiled kernels, its weights packed, its keys and values on pages as attention reads them.

A prefill and a decode step are the same pass: no row's bits depend on how many rows are computed with it, nor on the
processor. What torch computes here are copies, comparisons and single float32 operations, which IEEE 754 fixes to the bit; its sums and
transcendental functions round differently from one vector width to another, so none of them is used.

T new tokens, P wanted ones; D hidden, W all heads, V vocabulary, d head_dim, r = d/2.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from moe_lm.backends.base import Backend, Batch
from moe_lm.backends.cpu.launch import TokenPlaces, logsumexp, page_shape, rotation
from moe_lm.backends.cpu.layers import Norm, PackedLayer, Product
from moe_lm.backends.cpu.pack import PackedMatrix
from moe_lm.backends.cpu.pack_quantized import PackedBlocks
from moe_lm.backends.cpu.shared import kept
from moe_lm.model import Decoder, inverse_frequencies
from moe_lm.rope import RopeScaling


class CpuBackend(Backend):
    """Takes the weights out of the model, matrix by matrix or layer by layer, so that only one at a time is in memory twice.

    Quantised weights give the bits of the float32 numbers that they stand for, or, with `int8`, are multiplied in 8-bit integers.
    """

    invariant = True
    drafts = True
    quantized = True

    @torch.no_grad()
    def __init__(self, model: Decoder, int8: bool = False):
        super().__init__(model.config, model.norm.weight.device, model.norm.weight.dtype)
        # the largest matrices first: each is in memory twice for a while, and now there is little else
        self.head = Product.of([model.lm_head], int8)
        self.embedding: Tensor | PackedMatrix | PackedBlocks
        if self.config.tie_word_embeddings:
            self.embedding = self.head.matrix  # it is kept once
        elif model.embed.quantized:
            self.embedding = PackedBlocks.of(model.embed.quantized)
        else:
            self.embedding = kept(model.embed.weight.detach())
        del model.embed, model.lm_head
        self.layers: list[PackedLayer] = []
        while len(model.layers):
            window = self.config.window(len(self.layers))
            self.layers.append(PackedLayer.of(model.layers.pop(0), int8, window, self.config.attention_scale))  # type: ignore[arg-type]
        self.norm: Callable[[Tensor], Tensor] = Norm.of(model.norm)
        self.ropes = [self.config.rotary(index) for index in range(len(self.layers))]

    @property
    def page_dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def page_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        J, d = self.config.num_key_value_heads, self.config.head_dim
        return (J, *page_shape("k", d)), (J, *page_shape("v", d))

    @contextmanager
    def first_layers(self, count: int) -> Iterator[None]:
        layers, norm = self.layers, self.norm
        self.layers, self.norm = layers[:count], _unchanged
        try:
            yield
        finally:
            self.layers, self.norm = layers, norm

    @torch.inference_mode()
    def forward(self, batch: Batch, wanted: Sequence[int]) -> Tensor:
        places, wanted_P = _places(batch), torch.tensor(wanted, dtype=torch.int64)
        x_TD = self._embed(torch.tensor(batch.flat))
        rotations = {rope: self._rotation(places.positions, *rope) for rope in set(self.ropes)}
        for index, layer in enumerate(self.layers):
            cos_Tr, sin_Tr = rotations[self.ropes[index]]
            attended_TW = layer.attend(x_TD, cos_Tr, sin_Tr, places, batch.memory.k[index], batch.memory.v[index])
            if index == len(self.layers) - 1:
                x_TD, attended_TW = x_TD[wanted_P], attended_TW[wanted_P]
                if not wanted:  # a chunk of a prompt, of which only keys and values are needed
                    return x_TD
            layer.feed(x_TD, attended_TW)
        return self.norm(x_TD)

    @torch.inference_mode()
    def logits(self, hidden_PD: Tensor) -> Tensor:
        return self.head(hidden_PD).float()

    def argmax(self, logits_PV: Tensor) -> Tensor:
        return torch.from_numpy(logits_PV.numpy().argmax(-1))  # in a fraction of torch's time

    def logsumexp(self, logits_PV: Tensor) -> Tensor:
        return logsumexp(logits_PV)

    def _rotation(self, positions_T: Tensor, rope_theta: float, scaling: RopeScaling | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every position in the model's precision, [T, r] each."""
        inv_freq_r = inverse_frequencies(rope_theta, self.config.head_dim, scaling, self.device)
        cos_Tr, sin_Tr = rotation(positions_T, inv_freq_r)
        factor = scaling.attention_factor if scaling else 1.0
        return (cos_Tr * factor).to(self.dtype), (sin_Tr * factor).to(self.dtype)

    def _embed(self, tokens_T: Tensor) -> Tensor:
        x_TD = self.embedding[tokens_T] if isinstance(self.embedding, Tensor) else self.embedding.rows(tokens_T)
        if self.config.scale_embeddings:  # by a number of the weights' precision, as Gemma was trained
            x_TD *= torch.tensor(self.config.hidden_size**0.5, dtype=x_TD.dtype).item()
        return x_TD


def _unchanged(x_TD: Tensor) -> Tensor:
    return x_TD


def _places(batch: Batch) -> TokenPlaces:
    most = max(map(len, batch.pages))
    table = torch.tensor([[*pages, *[0] * (most - len(pages))] for pages in batch.pages], dtype=torch.int32)
    lengths = torch.tensor([len(tokens) for tokens in batch.tokens])
    sequences_T = torch.arange(len(lengths), dtype=torch.int32).repeat_interleave(lengths)
    return TokenPlaces(torch.tensor(batch.positions, dtype=torch.int32), sequences_T, table)
