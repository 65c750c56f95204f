"""AWQ's "gemm" layout: codes and zero points packed along the outputs, eight in a word, in the order 0 2 4 6 1 3 5 7.

`qweight` int32 [K, O/8], `qzeros` int32 [G, O/8], `scales` [G, O]. Written by AutoAWQ and GPTQModel.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moe_lm import kinds
from moe_lm.checkpoint.quantized.affine import Affine
from moe_lm.checkpoint.quantized.module import FLOATS, WORDS, Module
from moe_lm.checkpoint.quantized.options import BITS, GROUP_SIZE, Raw, one_of, option
from moe_lm.checkpoint.quantized.packing import unpacked

BITS_OF_A_CODE, IN_A_WORD = 4, 8
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # where in its word each of eight outputs lies
HALF = 8  # the zero point of symmetric codes


@dataclass(frozen=True, slots=True)
class AWQ:
    group_size: int  # -1: all inputs are one group
    zero_point: bool

    precision: ClassVar[str] = "AWQ-Int4"
    parts: ClassVar[frozenset[str]] = frozenset(("qweight", "qzeros", "scales"))
    unused: ClassVar[frozenset[str]] = frozenset()
    notices: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_config(cls, raw: Raw) -> "AWQ":
        """Raises ModelError for an option that is missing or wrong, Unsupported for one that is not implemented."""
        raw = {key: value.lower() if isinstance(value, str) else value for key, value in raw.items()}
        one_of(raw, "bits w_bit", BITS, (BITS_OF_A_CODE,))
        one_of(raw, "version checkpoint_format format", kinds.TEXT, ("gemm",), "gemm")
        one_of(raw, "backend", kinds.TEXT, ("autoawq",), "autoawq")
        one_of(raw, "pack_dtype", kinds.TEXT, ("int32",), "int32")
        return cls(option(raw, "group_size q_group_size", GROUP_SIZE), option(raw, "zero_point", kinds.FLAG, True))

    @property
    def typical(self) -> tuple[int, int]:
        return BITS_OF_A_CODE, self.group_size

    def holds(self, module: Module) -> bool:
        """Is the module's weight quantised?"""
        return not self.parts.isdisjoint(module.tensors)

    def shape(self, module: Module) -> tuple[int, int]:
        """(O, K). Raises ModelError where the module's tensors do not fit together or the configuration."""
        inputs, words = module.dims("qweight", WORDS)
        size = inputs if self.group_size == -1 else self.group_size
        if inputs % size:
            module.refuse(f"has {inputs:,} inputs, which are no whole groups of {size:,}")
        why = f"its qweight and group_size {self.group_size}"
        module.expect("scales", FLOATS, (inputs // size, words * IN_A_WORD), why)
        module.expect("qzeros", WORDS, (inputs // size, words), why)
        return words * IN_A_WORD, inputs

    def read(self, module: Module) -> Affine:
        """Raises ModelError where a zero point is another than the configuration says."""
        _, inputs = self.shape(module)
        words_KW = module.read("qweight")
        zeros_GO = _codes(module.read("qzeros"))
        if not self.zero_point and not bool((zeros_GO == HALF).all()):
            module.refuse(f"has zero points other than {HALF}, but zero_point is false; the checkpoint is damaged")
        return Affine(
            lambda begin, end: _codes(words_KW[:, begin // IN_A_WORD : -(-end // IN_A_WORD)]).t(),
            module.read("scales").to(torch.float32).t().contiguous(),
            zeros_GO.to(torch.float32).t().contiguous(),
            inputs,
            inputs if self.group_size == -1 else self.group_size,
            BITS_OF_A_CODE,
        )


def _codes(words: Tensor) -> Tensor:
    """uint8 [.., O] of int32 [.., O/8]"""
    packed = unpacked(words, BITS_OF_A_CODE, words.shape[-1] * IN_A_WORD)
    return packed.unflatten(-1, (-1, IN_A_WORD))[..., PLACES].flatten(-2)
