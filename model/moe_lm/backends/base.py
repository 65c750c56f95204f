"""What a back-end is: a decoder on one device, with its weights and its keys and values laid out as its kernels want them.

The engine (`moe_lm.engine`) knows no more of a model than this.

N sequences, T new tokens of all of them laid end to end, P the tokens whose hidden states are wanted; D hidden, V vocabulary,
J key/value heads, d head_dim.
"""

import mmap
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from moe_lm.config import ModelConfig

PAGE = 128  # tokens a page


class KVPages:
    """Keys and values of `num_pages` pages in every layer, [pages, *shape], and of one spare page, which absorbs padded writes."""

    def __init__(self, backend: "Backend", num_pages: int):
        layers, dtype, device = backend.config.num_hidden_layers, backend.page_dtype, backend.device
        self.mappings: list[mmap.mmap] = []  # on a CPU: of the keys, and of the values
        self.all: list[Tensor] = []
        for shape in backend.page_shapes:
            whole = (layers, num_pages + 1, *shape)
            if device.type == "cpu":  # mapped, so that it takes memory page by page as it is written to, and can give it back
                self.mappings.append(mmap.mmap(-1, prod(whole) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
                self.all.append(torch.frombuffer(self.mappings[-1], dtype=dtype).view(whole))
            else:
                self.all.append(torch.empty(whole, dtype=dtype, device=device))
        self.k, self.v = (pages.unbind() for pages in self.all)
        self.num_pages = self.spare = num_pages

    @property
    def discards_whole_pages(self) -> bool:
        """Does `discard` leave zeros? It does on Linux, where a page is whole ones of the operating system's."""
        return sys.platform == "linux" and bool(self.mappings) and all(pages[0, 0].nbytes % mmap.PAGESIZE == 0 for pages in self.all)

    def discard(self, page: int) -> None:
        """Give a page's memory back to the operating system, where it can be; its contents are lost."""
        for pages, mapping in zip(self.all, self.mappings, strict=False):
            size = pages[0, 0].nbytes
            for layer in range(len(pages)):
                begin = (layer * (self.num_pages + 1) + page) * size
                first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, (begin + size) // mmap.PAGESIZE * mmap.PAGESIZE
                if last > first:
                    mapping.madvise(mmap.MADV_DONTNEED, first, last - first)

    @property
    def num_bytes(self) -> int:
        return sum(pages.nbytes for pages in self.all)

    @torch.inference_mode()
    def clear(self, page: int) -> None:
        """Zeros: attention multiplies what is masked by zero, and a NaN in fresh memory would stay NaN."""
        if self.discards_whole_pages:  # it then takes memory as tokens are written to it
            self.discard(page)
            return
        for pages in self.all:
            pages[:, page] = 0

    @torch.inference_mode()
    def copy(self, source: int, target: int) -> None:
        """One page over another."""
        for pages in self.all:
            pages[:, target] = pages[:, source]


@dataclass(frozen=True, slots=True)
class Batch:
    """New tokens of N sequences. Of each: its tokens, how many tokens lie on its pages already, and its pages, with room for all.

    Raises ValueError for a sequence that its pages do not hold: its keys and values would be written to another's.
    """

    tokens: Sequence[Sequence[int]]
    starts: Sequence[int]
    pages: Sequence[Sequence[int]]
    memory: KVPages

    def __post_init__(self) -> None:
        for tokens, start, pages in zip(self.tokens, self.starts, self.pages, strict=True):
            if start + len(tokens) > len(pages) * PAGE:
                raise ValueError(f"a sequence of {start + len(tokens)} tokens has {len(pages)} pages of {PAGE}")

    @property
    def flat(self) -> list[int]:
        """All new tokens, laid end to end."""
        return [token for tokens in self.tokens for token in tokens]

    @property
    def positions(self) -> list[int]:
        """Of all new tokens, each in its own sequence."""
        return [start + i for start, tokens in zip(self.starts, self.tokens, strict=True) for i in range(len(tokens))]

    @property
    def is_decode_step(self) -> bool:
        """Has every sequence one new token, after others?"""
        return all(len(tokens) == 1 for tokens in self.tokens) and all(self.starts)


class Backend(ABC):
    """A decoder that can run."""

    layers: Any  # a sequence of modules or dataclasses, which hold the weights
    norm: Any  # the final one
    invariant: ClassVar[bool]  # is a token's result the same bits whatever else is in the batch, and however its prompt is cut?
    quantized: ClassVar[bool] = False  # does it compute quantised weights as they are stored, in float32 and in int8?
    drafts: ClassVar[bool] = False  # may a decode step run several tokens of a sequence at the cost, and with the bits, of one?

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype):
        self.config, self.device, self.dtype = config, device, dtype

    @property
    def page_dtype(self) -> torch.dtype:
        return self.dtype

    @property
    def page_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of one page's keys and of its values, in one layer."""
        shape = (self.config.num_key_value_heads, PAGE, self.config.head_dim)
        return shape, shape

    @property
    def page_bytes(self) -> int:
        """Keys and values of one page in all layers."""
        return self.config.num_hidden_layers * sum(map(prod, self.page_shapes)) * self.page_dtype.itemsize

    @abstractmethod
    def forward(self, batch: Batch, wanted: Sequence[int]) -> Tensor:
        """Put the new tokens' keys and values on their pages; the final hidden states [P, D] of the `wanted` ones of all T.

        The result may be overwritten by the next call.
        """

    @abstractmethod
    def first_layers(self, count: int) -> AbstractContextManager[None]:
        """Within it, `forward` ends after so many layers (at least one), without the final norm: to find out where a model overflows."""

    @abstractmethod
    def logits(self, hidden_PD: Tensor) -> Tensor:
        """[P, D] -> [P, V], float32."""

    def argmax(self, logits_PV: Tensor) -> Tensor:
        """The likeliest token of each row, of equals the first, [P]."""
        return logits_PV.argmax(-1)

    def logsumexp(self, logits_PV: Tensor) -> Tensor:
        """log(sum(exp(logits))) of each row, [P]: a token's log-probability is its logit less this."""
        return logits_PV.logsumexp(-1)
