"""Which format a folder's weights are quantised in: config.json's quantization_config, or a file of its own in older folders."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from moe_lm.checkpoint.quantized.affine import Affine
from moe_lm.checkpoint.quantized.awq import AWQ
from moe_lm.checkpoint.quantized.compressed import CompressedTensors
from moe_lm.checkpoint.quantized.float8 import Float8
from moe_lm.checkpoint.quantized.gptq import GPTQ
from moe_lm.checkpoint.quantized.module import Module
from moe_lm.checkpoint.quantized.options import Raw, option, unsupported
from moe_lm.errors import ModelError
from moe_lm.files import is_there, read_json, shown
from moe_lm.kinds import OBJECT, TEXT


class Scheme(Protocol):
    """One format, with a folder's options."""

    @property
    def precision(self) -> str:
        """For `moe_lm.checkpoint.weights.Stored`: GPTQ-Int4, float8_e4m3 .."""

    @property
    def typical(self) -> tuple[int, int] | None:
        """Of most modules, the bits of a code and the inputs of a group (-1: all); None where products don't read them packed."""

    @property
    def parts(self) -> frozenset[str]:
        """What follows the name of a quantised module in the names of the tensors that make up its weight."""

    @property
    def unused(self) -> frozenset[str]:
        """What follows a module's name in the names of tensors that do not concern weights."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What a user should know, a line each."""

    def holds(self, module: Module) -> bool:
        """Is the module's weight quantised?"""

    def shape(self, module: Module) -> tuple[int, int]:
        """The weight's outputs and inputs, from the tensors' headers. Raises ModelError where these do not fit together."""

    def read(self, module: Module) -> Affine:
        """Raises ModelError as `shape` does, and for values that no such weight has."""


METHODS: Mapping[str, Callable[[Raw], Scheme]] = {
    "awq": AWQ.from_config,
    "compressed-tensors": CompressedTensors.from_config,
    "fbgemm_fp8": Float8.from_config,
    "fp8": Float8.from_config,
    "gptq": GPTQ.from_config,
}
# files that say it where config.json does not, and what they mean without a quant_method
FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


def scheme_of(config: Raw, folder: Path | None = None) -> Scheme | None:
    """The scheme of a config.json, or of a file of `FILES` in its folder; None for weights that are not quantised.

    Raises Unsupported for a format that is not read, and ModelError for options that are wrong or, in two files, different.
    """
    raw = option(config, "quantization_config compression_config", OBJECT, {})
    scheme = _scheme(raw, None) if raw else None
    for name, method in FILES.items():
        if folder and is_there(folder / name):
            theirs = _scheme(read_json(folder / name), method)
            if scheme is not None and scheme != theirs:
                raise ModelError(f"{folder / name} and config.json say different things of how weights are quantised; which is right?")
            scheme = scheme or theirs
    return scheme


def _scheme(raw: Raw, default: str | None) -> Scheme:
    if default is None and (raw.get("load_in_4bit") or raw.get("load_in_8bit")):
        default = "bitsandbytes"  # as older versions wrote it
    method = option(raw, "quant_method method", TEXT, default)
    if method not in METHODS:
        raise unsupported(f"quant_method = {shown(method)}", "only " + ", ".join(METHODS))
    return METHODS[method](raw)
