"""Rotary embeddings: the frequency of each pair of dimensions, plain or scaled to a longer context.

A scaling is what config.json calls rope_scaling, or rope_parameters since transformers 5. The formulas are those of transformers'
modeling_rope_utils.py, here in float64. i counts the pairs of a head, 0 .. head_dim / 2 - 1.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from moe_lm import kinds
from moe_lm.errors import ModelError, Unsupported
from moe_lm.files import shown

Raw = Mapping[str, Any]

_LARGEST = 3.4e38  # float32's
_POSITIVE = kinds.number("a number above 0", lambda value: value > 0)


def frequencies(rope_theta: float, head_dim: int, scaling: "RopeScaling | None" = None) -> list[float]:
    """The angle by which each pair of dimensions turns from one position to the next, in radians: head_dim / 2 numbers."""
    if scaling is None:
        return [rope_theta ** (-i / head_dim) for i in range(0, head_dim, 2)]
    return scaling.frequencies(rope_theta, head_dim)


class RopeScaling(ABC):
    """How a longer context changes the frequencies; `attention_factor` multiplies cosines and sines."""

    rope_type: ClassVar[str]
    attention_factor: float

    @abstractmethod
    def frequencies(self, rope_theta: float, head_dim: int) -> list[float]:
        """As the function `frequencies`."""

    def to_hf(self) -> dict[str, Any]:
        """config.json's rope_scaling."""
        return {"rope_type": self.rope_type, **asdict(self)}  # type: ignore[call-overload]  # every subclass is a dataclass


@dataclass(frozen=True)
class LinearScaling(RopeScaling):
    """All positions are divided by `factor`."""

    rope_type = "linear"
    attention_factor = 1.0
    factor: float

    def frequencies(self, rope_theta: float, head_dim: int) -> list[float]:
        return [frequency / self.factor for frequency in frequencies(rope_theta, head_dim)]


@dataclass(frozen=True)
class DynamicScaling(RopeScaling):
    """NTK scaling by the sequence's length. It begins after max_position_embeddings, where moe_lm's sequences end."""

    rope_type = "dynamic"
    attention_factor = 1.0
    factor: float

    def frequencies(self, rope_theta: float, head_dim: int) -> list[float]:
        return frequencies(rope_theta, head_dim)


@dataclass(frozen=True)
class Llama3Scaling(RopeScaling):
    """Llama 3.1: long wavelengths are multiplied by `factor`, short ones stay, those between are interpolated."""

    rope_type = "llama3"
    attention_factor = 1.0
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def frequencies(self, rope_theta: float, head_dim: int) -> list[float]:
        return [self._scaled(frequency) for frequency in frequencies(rope_theta, head_dim)]

    def _scaled(self, frequency: float) -> float:
        turns = self.original_max_position_embeddings * frequency / (2 * math.pi)  # of the pair over the original context
        kept = _clamp((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor))
        return frequency * ((1 - kept) / self.factor + kept)


@dataclass(frozen=True)
class YarnScaling(RopeScaling):
    """YaRN (arXiv 2309.00071): pairs of many turns stay, those of few are divided by `factor`, with a linear ramp in i between them."""

    rope_type = "yarn"
    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # are the ramp's ends whole numbers?

    def frequencies(self, rope_theta: float, head_dim: int) -> list[float]:
        def pair_of(turns: float) -> float:
            wavelength = self.original_max_position_embeddings / (turns * 2 * math.pi)
            return head_dim * math.log(wavelength) / (2 * math.log(rope_theta))

        low, high = pair_of(self.beta_fast), pair_of(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        width = high - low or 0.001
        divided = [_clamp((i - low) / width) for i in range(head_dim // 2)]
        plain = frequencies(rope_theta, head_dim)
        return [frequency * (part / self.factor + 1 - part) for frequency, part in zip(plain, divided, strict=True)]


@dataclass(frozen=True)
class LongRopeScaling(RopeScaling):
    """LongRoPE (arXiv 2402.13753): each frequency is divided by a factor of its own.

    The long factors are for sequences of more than original_max_position_embeddings tokens, all of whose keys change when they
    grow beyond it. moe_lm shares keys between sequences, so it keeps to the short factors and to that length (`max_seq_len`).
    """

    rope_type = "longrope"
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    max_position_embeddings: int
    attention_factor: float

    @property
    def max_seq_len(self) -> int:
        """Up to which length the short factors are right."""
        longest = self.max_position_embeddings
        return longest if self.short_factor == self.long_factor else min(longest, self.original_max_position_embeddings)

    def frequencies(self, rope_theta: float, head_dim: int) -> list[float]:
        plain = frequencies(rope_theta, head_dim)
        return [frequency / factor for frequency, factor in zip(plain, self.short_factor, strict=True)]

    def to_hf(self) -> dict[str, Any]:
        raw = super().to_hf() | {"short_factor": list(self.short_factor), "long_factor": list(self.long_factor)}
        del raw["max_position_embeddings"]  # config.json has it at the top
        return raw


# the keys of transformers' RopeParameters less mrope_section, and keys that it ignores; those of another rope_type are ignored here, too
_KEYS = frozenset(
    """rope_type type rope_theta partial_rotary_factor factor original_max_position_embeddings attention_factor beta_fast beta_slow
    short_factor long_factor low_freq_factor high_freq_factor mscale mscale_all_dim truncate finetuned""".split()
)


def from_hf(raw: Raw, rope_theta: float, head_dim: int, max_position_embeddings: int) -> RopeScaling | None:
    """The scaling that config.json's rope_scaling or rope_parameters describes; None for rope_type "default".

    Raises ModelError for an unknown type, an unknown key, a missing or an impossible value.
    """
    rope_type = raw.get("rope_type", raw.get("type", "default"))
    if unknown := sorted(raw.keys() - _KEYS):
        what = f"config option rope_scaling.{shown(unknown[0])[1:-1]} = {shown(raw[unknown[0]])}"
        raise Unsupported(f"{what} is not known to moe_lm (rope_type {shown(rope_type)})")
    if rope_type == "default":
        return None
    if not isinstance(rope_type, str) or rope_type not in _READERS:
        supported = ", ".join(("default", *_READERS))
        raise Unsupported(f"config option rope_scaling.rope_type = {shown(rope_type)} is not supported, only {supported}")
    scaling = _READERS[rope_type](_Values(raw, rope_theta, head_dim, max_position_embeddings))
    if not _are_computable(scaling, rope_theta, head_dim):
        raise ModelError(f"config option rope_scaling = {shown(raw)} gives frequencies that no float32 holds; is it this model's?")
    return scaling


def _are_computable(scaling: RopeScaling, rope_theta: float, head_dim: int) -> bool:
    """Each value alone may be a number above 0 and still be so large or small that the formulas have no result."""
    try:
        values = [scaling.attention_factor, *scaling.frequencies(rope_theta, head_dim)]
    except (ArithmeticError, ValueError):  # a division by 0, a logarithm of 0
        return False
    return all(abs(value) <= _LARGEST for value in values)


@dataclass(frozen=True, slots=True)
class _Values:
    """The checked values of a rope_scaling, and what of config.json it refers to."""

    raw: Raw
    rope_theta: float
    head_dim: int
    max_position_embeddings: int

    def number(self, key: str, default: float | None = None) -> float:
        """A number above 0."""
        value = default if self.raw.get(key) is None else self.raw[key]
        if value is None:
            raise ModelError(f"config option rope_scaling has no {key!r}, which rope_type {self._type} needs")
        return self._positive(key, value)

    def optional(self, key: str) -> float | None:
        return None if self.raw.get(key) is None else self.number(key)

    def original(self) -> int:
        """original_max_position_embeddings: where it is absent, the scaled length itself, as in transformers."""
        length = self.number("original_max_position_embeddings", self.max_position_embeddings)
        if length != int(length) or length < 2:
            raise self._wrong("original_max_position_embeddings", "a whole number of at least 2")
        return int(length)

    def factors(self, key: str) -> tuple[float, ...]:
        """One number above 0 for each pair of dimensions."""
        values = self.raw.get(key)
        if not isinstance(values, list | tuple) or len(values) != self.head_dim // 2:
            raise self._wrong(key, f"a list of {self.head_dim // 2} numbers (half of head_dim)")
        return tuple(self._positive(key, value) for value in values)

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw.get(key, default)
        if not kinds.FLAG.holds(value):
            raise self._wrong(key, kinds.FLAG.words)
        return value

    @property
    def _type(self) -> str:
        return self.raw.get("rope_type", self.raw.get("type"))

    def _positive(self, key: str, value: Any) -> float:
        if not _POSITIVE.holds(value):
            raise self._wrong(key, _POSITIVE.words)
        return float(value)

    def _wrong(self, key: str, wanted: str) -> ModelError:
        return ModelError(f"config option rope_scaling.{key} = {shown(self.raw.get(key))} is not {wanted}")


def _llama3(values: _Values) -> RopeScaling:
    low, high = values.number("low_freq_factor"), values.number("high_freq_factor")
    if high <= low:
        raise ModelError(f"config option rope_scaling.high_freq_factor = {high} is not above low_freq_factor = {low}")
    return Llama3Scaling(values.number("factor"), low, high, values.original())


def _yarn(values: _Values) -> RopeScaling:
    original = values.original()
    factor = values.number("factor", values.max_position_embeddings / original)
    attention = values.optional("attention_factor") or _yarn_attention_factor(factor, values)
    if values.rope_theta <= 1:
        raise ModelError(f"config option rope_theta = {values.rope_theta} is not above 1, which rope_type yarn needs")
    beta_fast, beta_slow = values.number("beta_fast", 32), values.number("beta_slow", 1)
    return YarnScaling(factor, original, attention, beta_fast, beta_slow, values.flag("truncate", True))


def _yarn_attention_factor(factor: float, values: _Values) -> float:
    if not (values.raw.get("mscale") and values.raw.get("mscale_all_dim")):
        return _mscale(factor, 1.0)
    return _mscale(factor, values.number("mscale")) / _mscale(factor, values.number("mscale_all_dim"))


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1


def _long_rope(values: _Values) -> RopeScaling:
    original = values.original()
    factor = values.number("factor", values.max_position_embeddings / original)
    attention = values.number("attention_factor", 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original)))
    short, long = values.factors("short_factor"), values.factors("long_factor")
    return LongRopeScaling(short, long, original, values.max_position_embeddings, attention)


_READERS: dict[str, Callable[[_Values], RopeScaling]] = {
    "linear": lambda values: LinearScaling(values.number("factor")),
    "dynamic": lambda values: DynamicScaling(values.number("factor")),
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _long_rope,
}


def _clamp(x: float) -> float:
    return min(max(x, 0.0), 1.0)
