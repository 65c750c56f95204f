"""compressed-tensors: int4 and int8 codes in words, int8 codes one by one, and float8, as llm-compressor writes them.

`weight_packed` int32 [O, K bits/32] with `weight_shape`, or `weight` [O, K] in int8 or float8_e4m3; `weight_scale` [O, G], [O, 1], [1] or
a block's; `weight_zero_point` packed along the outputs [O bits/32, G], or int8 as the scales; and `weight_g_idx` [K]. Signed codes are
packed plus half their range. `targets` and `ignore` of the configuration name modules, regular expressions ("re:..") or classes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moe_lm import kinds
from moe_lm.checkpoint.quantized.affine import Affine, ordered
from moe_lm.checkpoint.quantized.float8 import ACTIVATIONS, BLOCK, FLOAT8, WEIGHTS_ONLY
from moe_lm.checkpoint.quantized.module import INDICES, WORDS, Module
from moe_lm.checkpoint.quantized.options import BITS, GROUP_SIZE, Raw, are_objects, one_of, option, unsupported
from moe_lm.checkpoint.quantized.packing import Packed, unpacked
from moe_lm.checkpoint.quantized.scales import Block, by_output, check_scales
from moe_lm.errors import ModelError
from moe_lm.files import shown

FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
STRATEGIES = ("tensor", "channel", "group", "block")
INT8 = ("I8",)
CLASS = "Linear"  # of every module that is quantised here
NAMES = kinds.Kind("a list of texts", lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value))
GROUPS = kinds.Kind("an object of objects", are_objects)


@dataclass(frozen=True, slots=True)
class Group:
    """How the modules of one of the configuration's groups are quantised."""

    bits: int
    is_float: bool
    symmetric: bool
    block: Block
    act_order: bool

    @property
    def precision(self) -> str:
        return "float8_e4m3" if self.is_float else f"int{self.bits}"


@dataclass(frozen=True, slots=True)
class CompressedTensors:
    groups: tuple[tuple[str, Group], ...]  # by target, in the order in which targets are tried
    ignore: tuple[str, ...]
    notices: tuple[str, ...]

    parts: ClassVar[frozenset[str]] = frozenset(
        ("weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
    )
    unused: ClassVar[frozenset[str]] = ACTIVATIONS

    @classmethod
    def from_config(cls, raw: Raw) -> "CompressedTensors":
        """Raises ModelError for an option that is missing or wrong, Unsupported for one that is not implemented."""
        one_of(raw, "format", kinds.TEXT, (*FORMATS, "mixed-precision"))
        sparsity = option(raw, "sparsity_config", kinds.OBJECT, {})
        if sparsity.get("format", "dense") != "dense":
            raise unsupported(f"sparsity_config.format = {shown(sparsity['format'])}", "only dense weights")
        for name in ("transform_config", "moe_sparsity_config"):
            if raw.get(name):
                raise unsupported(f"{name} = {shown(raw[name])}", "only weights that are used as they are stored")
        groups: list[tuple[str, Group]] = []
        config_groups = option(raw, "config_groups", GROUPS)
        for each in config_groups.values():
            one_of(each, "format", kinds.TEXT, FORMATS, FORMATS[0])
            group = _group(option(each, "weights", kinds.OBJECT))
            groups += [(target, group) for target in option(each, "targets", NAMES)]
        ignore = option(raw, "ignore", NAMES, [])
        for pattern in (*ignore, *(target for target, _ in groups)):
            _matches("", pattern)
        whole = raw.get("kv_cache_scheme") or any(
            each.get(name) for each in config_groups.values() for name in ("input_activations", "output_activations")
        )
        return cls(tuple(sorted(groups, key=lambda group: ("re:" in group[0], group[0]))), tuple(ignore), (WEIGHTS_ONLY,) if whole else ())

    @property
    def precision(self) -> str:
        return "-".join(sorted({group.precision for _, group in self.groups}))

    @property
    def typical(self) -> tuple[int, int] | None:
        for _, group in self.groups:
            if not group.is_float and (group.bits <= 4 or group.symmetric):
                return group.bits, group.block[1] if group.block else -1
        return None

    def holds(self, module: Module) -> bool:
        """Is the module's weight quantised?"""
        weight = module.tensors.get("weight")
        return not (self.parts - {"weight"}).isdisjoint(module.tensors) or (weight is not None and weight.dtype in INT8 + FLOAT8)

    def shape(self, module: Module) -> tuple[int, int]:
        """(O, K). Raises ModelError where the module's tensors do not fit together or the configuration."""
        group = self._group(module)
        if "weight_packed" in module.tensors:
            shape = _packed_shape(module, group)
        else:
            outputs, inputs = module.dims("weight", FLOAT8 if group.is_float else INT8)
            shape = outputs, inputs
        check_scales(module, "weight_scale", shape, group.block)
        if group.block and group.block[0] == 1 and shape[1] % group.block[1]:
            module.refuse(f"has {shape[1]:,} inputs, which are no whole groups of {group.block[1]:,}")
        if not group.symmetric or "weight_zero_point" in module.tensors:
            _check_zeros(module, shape, group)
        if group.act_order or "weight_g_idx" in module.tensors:
            module.expect("weight_g_idx", INDICES, (shape[1],), f"its weight {shape}")
        return shape

    def read(self, module: Module) -> Affine:
        """Raises ModelError where weight_g_idx is out of range, or symmetric codes have zero points."""
        group = self._group(module)
        outputs, inputs = self.shape(module)
        zeros_OG = _zeros(module, outputs, group)
        scales_OG = by_output(module.read("weight_scale"), outputs, group.block)
        if "weight_packed" in module.tensors:
            words_OW, bits, half = module.read("weight_packed"), group.bits, 1 << (group.bits - 1)
            zeros_OG = torch.full_like(scales_OG, half) if zeros_OG is None else zeros_OG + half
            codes: Callable[[int, int], Tensor] = Packed(words_OW, bits, inputs)
        else:
            weight_OK, bits = module.read("weight"), 0 if group.is_float else 8
            codes = lambda begin, end: weight_OK[begin:end]  # noqa: E731
        size = group.block[1] if group.block else inputs
        return Affine(codes, scales_OG, zeros_OG, inputs, size, bits, _order(module, size))

    def _group(self, module: Module) -> Group:
        if left_out := next((each for each in self.ignore if _matches(module.name, each)), None):
            module.refuse(f"is quantised, though quantization_config's ignore leaves it out ({shown(left_out)})")
        by_name = (group for target, group in self.groups if _matches(module.name, target))
        by_class = (group for target, group in self.groups if target == CLASS)
        if (found := next(by_name, None) or next(by_class, None)) is None:
            module.refuse("is quantised, though no target of quantization_config names it")
        return found


def _group(weights: Raw) -> Group:
    kind = one_of(weights, "type", kinds.TEXT, ("int", "float"), "int")
    bits = one_of(weights, "num_bits", BITS, (8,) if kind == "float" else (4, 8))
    size = option(weights, "group_size", GROUP_SIZE, -1)
    strategy = one_of(weights, "strategy", kinds.TEXT, STRATEGIES, "channel" if size == -1 else "group")
    block: Block = None
    if strategy == "block":
        rows, columns = option(weights, "block_structure", BLOCK)
        block = rows, columns
    elif strategy == "group":
        if size == -1:
            raise ModelError("quantization_config: strategy = 'group' needs a group_size of at least 1")
        block = 1, size
    orders = ("group", "dynamic", "weight", "static", "none")
    order = one_of(weights, "actorder", kinds.TEXT, orders, "none")
    return Group(bits, kind == "float", option(weights, "symmetric", kinds.FLAG, True), block, order in ("group", "dynamic"))


def _matches(name: str, target: str) -> bool:
    """As compressed-tensors does it: the whole name, or a regular expression that its beginning matches."""
    if not target.startswith("re:"):
        return name == target
    try:
        return re.match(target.removeprefix("re:"), name) is not None
    except re.error as error:
        raise ModelError(f"quantization_config: the pattern {shown(target)} is not valid: {error}") from None


def _packed_shape(module: Module, group: Group) -> tuple[int, int]:
    module.expect("weight_shape", INDICES, (2,), "a weight's outputs and inputs")
    outputs, inputs = module.read("weight_shape").tolist()
    if group.is_float or "weight" in module.tensors:
        module.refuse("has a weight_packed of integers, but quantization_config says float" if group.is_float else "has two weights")
    if not (0 < outputs < 2**31 and 0 < inputs < 2**31):
        module.refuse(f"has weight_shape {shown([outputs, inputs])}; the checkpoint is damaged")
    module.expect("weight_packed", WORDS, (outputs, -(-inputs * group.bits // 32)), f"weight_shape and {group.bits} bits")
    return outputs, inputs


def _check_zeros(module: Module, shape: tuple[int, int], group: Group) -> None:
    """Raises ModelError unless there is a zero point for each scale: packed along the outputs, or, as older versions have them, int8."""
    if "weight_packed" not in module.tensors or module.header("weight_zero_point").dtype in INT8:
        scales = module.header("weight_scale").shape
        module.expect("weight_zero_point", INT8, scales, f"scales of shape {scales}")
        return
    groups = -(-shape[1] // group.block[1]) if group.block else 1
    module.expect("weight_zero_point", WORDS, (-(-shape[0] * group.bits // 32), groups), f"its weight {shape} and {group.bits} bits")


def _zeros(module: Module, outputs: int, group: Group) -> Tensor | None:
    """Zero points of signed codes, float32 [O, G]; None: they are all 0."""
    if "weight_zero_point" not in module.tensors:
        return None
    stored = module.read("weight_zero_point")
    if stored.dtype == torch.int8:
        zeros_OG = by_output(stored, outputs, group.block)
    else:
        zeros_OG = unpacked(stored.t(), group.bits, outputs).t().to(torch.float32) - (1 << (group.bits - 1))
    if group.symmetric:
        if bool(zeros_OG.any()):
            module.refuse("has zero points other than 0, but symmetric is true; the checkpoint is damaged")
        return None
    return zeros_OG


def _order(module: Module, size: int) -> Tensor | None:
    if "weight_g_idx" not in module.tensors:
        return None
    groups_K = module.read("weight_g_idx")
    if bool((groups_K == -1).all()):  # how compressed-tensors says that there is no order
        return None
    try:
        return ordered(groups_K, size)
    except ValueError as error:
        module.refuse(f"has a weight_g_idx that {error}; the checkpoint is damaged")
