"""GPTQ: codes packed along the inputs, zero points along the outputs.

`qweight` int32 [K bits/32, O], `scales` [G, O], `qzeros` int32 [G, O bits/32], and `g_idx` int32 [K], the group of each input, which
groups of inputs in order may do without. checkpoint_format "gptq" stores zero points minus one, "gptq_v2" as they are.
Written by AutoGPTQ, GPTQModel, optimum and transformers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from moe_lm import kinds
from moe_lm.checkpoint.quantized.affine import Affine, ordered
from moe_lm.checkpoint.quantized.module import FLOATS, INDICES, WORDS, Module
from moe_lm.checkpoint.quantized.options import BITS, GROUP_SIZE, Raw, are_objects, one_of, option, unsupported
from moe_lm.checkpoint.quantized.packing import Packed, unpacked
from moe_lm.errors import ModelError
from moe_lm.files import shown

WIDTHS = (2, 3, 4, 8)
RULES = kinds.Kind("an object of objects by pattern", are_objects)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a module is packed; groups of `group_size` inputs, all of them where it is -1."""

    bits: int
    group_size: int
    act_order: bool


@dataclass(frozen=True, slots=True)
class GPTQ:
    """`rules` are GPTQModel's `dynamic`: the first pattern that a module's name begins with decides; None: it is not quantised."""

    layout: Layout
    zeros_less_one: bool
    rules: tuple[tuple[re.Pattern[str], Layout | None], ...]
    symmetric: bool = field(compare=False)  # as is said: every module is checked
    # did GPTQModel take the one from whole words, so that a zero point of 0 borrows from the next?
    carries: bool = field(compare=False)

    parts: ClassVar[frozenset[str]] = frozenset(("qweight", "qzeros", "scales", "g_idx"))
    unused: ClassVar[frozenset[str]] = frozenset()
    notices: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_config(cls, raw: Raw) -> "GPTQ":
        """Raises ModelError for an option that is missing or wrong, Unsupported for one that is not implemented."""
        layout = _layout(raw, {})
        form = one_of(raw, "checkpoint_format format", kinds.TEXT, ("gptq", "gptq_v2"), "gptq")
        one_of(raw, "pack_dtype", kinds.TEXT, ("int32",), "int32")
        one_of(raw, "is_marlin_format", kinds.FLAG, (False,), False)
        for name in ("rotation", "adapter", "activation"):
            if raw.get(name):
                raise unsupported(f"{name} = {shown(raw[name])}", "only weights that are used as they are stored")
        rules, symmetric = option(raw, "dynamic", RULES, {}), option(raw, "sym", kinds.FLAG, True)
        return cls(layout, form == "gptq", tuple(_rule(raw, *rule) for rule in rules.items()), symmetric, _by_gptqmodel(raw))

    @property
    def precision(self) -> str:
        return f"GPTQ-Int{self.layout.bits}"

    @property
    def typical(self) -> tuple[int, int] | None:
        return (self.layout.bits, self.layout.group_size) if self.layout.bits <= 4 or self.symmetric else None

    def holds(self, module: Module) -> bool:
        """Is the module's weight quantised?"""
        return not self.parts.isdisjoint(module.tensors)

    def shape(self, module: Module) -> tuple[int, int]:
        """(O, K). Raises ModelError where the module's tensors do not fit together or the configuration."""
        layout = self._layout(module)
        words, outputs = module.dims("qweight", WORDS)
        inputs, rest = divmod(words * 32, layout.bits)
        if rest or outputs * layout.bits % 32:
            module.refuse(f"has qweight of shape {(words, outputs)}, which holds no whole words of {layout.bits}-bit codes")
        why = f"its qweight, bits {layout.bits} and group_size {layout.group_size}"
        groups = 1 if layout.group_size == -1 else -(-inputs // layout.group_size)
        module.expect("scales", FLOATS, (groups, outputs), why)
        module.expect("qzeros", WORDS, (groups, outputs * layout.bits // 32), why)
        if "g_idx" in module.tensors:
            module.expect("g_idx", INDICES, (inputs,), why)
        elif groups > 1 and (layout.act_order or inputs % layout.group_size):
            module.refuse("lacks its tensor g_idx, without which its groups are not known; is the folder complete?")
        return outputs, inputs

    def read(self, module: Module) -> Affine:
        """Raises ModelError where g_idx or a zero point is out of range."""
        layout = self._layout(module)
        outputs, inputs = self.shape(module)
        words_RO = module.read("qweight")
        size = inputs if layout.group_size == -1 else layout.group_size
        return Affine(
            Packed(words_RO.t(), layout.bits, inputs),
            module.read("scales").to(torch.float32).t().contiguous(),
            self._zeros(module, layout.bits, outputs).to(torch.float32).t().contiguous(),
            inputs,
            size,
            layout.bits,
            self._order(module, layout, size) if "g_idx" in module.tensors else None,
        )

    def _layout(self, module: Module) -> Layout:
        for pattern, layout in self.rules:
            if pattern.match(module.name):
                if layout is None:
                    module.refuse(f"is quantised, though quantization_config's dynamic leaves it out ({shown(pattern.pattern)})")
                return layout
        return self.layout

    def _zeros(self, module: Module, bits: int, outputs: int) -> Tensor:
        """Zero points, int32 [G, O]."""
        words = module.read("qzeros")
        top = (1 << bits) - 1
        if not self.zeros_less_one:
            return unpacked(words, bits, outputs).to(torch.int32)
        if self.carries and bits != 3:
            one_in_each = sum(1 << shift for shift in range(0, 32, bits))
            words = (words.to(torch.int64) + one_in_each).to(torch.int32)
            return unpacked(words, bits, outputs).to(torch.int32)
        less_one = unpacked(words, bits, outputs).to(torch.int32)
        if self.carries:
            return (less_one + 1) & top
        if bool((less_one == top).any()):
            # a zero point of 0 in AutoGPTQ's packing: minus one, it overwrote others in the same word
            module.refuse(f"has a zero point of {top + 1}, which {bits} bits cannot hold: AutoGPTQ damaged it in packing; quantise again")
        return less_one + 1

    def _order(self, module: Module, layout: Layout, size: int) -> Tensor | None:
        try:
            order = ordered(module.read("g_idx"), size)
        except ValueError as error:
            module.refuse(f"has a g_idx that {error}; the checkpoint is damaged")
        if order is not None and not layout.act_order:
            module.refuse("has a g_idx with groups out of order, but desc_act is false: engines disagree on what that means")
        return order


def _layout(raw: Raw, override: Raw) -> Layout:
    merged = {**raw, **{key: value for key, value in override.items() if value is not None}}
    return Layout(
        one_of(merged, "bits w_bit", BITS, WIDTHS),
        option(merged, "group_size q_group_size", GROUP_SIZE),
        option(merged, "desc_act", kinds.FLAG, False),
    )


def _rule(raw: Raw, pattern: str, override: Mapping[str, Any]) -> tuple[re.Pattern[str], Layout | None]:
    sign, text = (pattern[:2], pattern[2:]) if pattern[:2] in ("-:", "+:") else ("+:", pattern)
    try:
        return re.compile(text), None if sign == "-:" else _layout(raw, override)
    except re.error as error:
        raise ModelError(f"quantization_config: the pattern {shown(text)} of dynamic is not valid: {error}") from None


def _by_gptqmodel(raw: Raw) -> bool:
    meta = raw.get("meta")
    names = meta.get("quantizer") if isinstance(meta, dict) else None
    return any(isinstance(name, str) and name.lower().startswith("gptqmodel:") for name in (names if isinstance(names, list) else [names]))
