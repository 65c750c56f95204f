"""Writes a checkpoint as a Hugging Face folder of 4-bit weights in GPTQ's layout (see `moe_lm.quant.gptq`), parameter by parameter.

Quantised are the matrices of attention, FFNs and experts, under the hub's names; embedding, head, norms, biases and routers are float16.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moe_lm.checkpoint.read import Checkpoint
from moe_lm.checkpoint.shard_writer import ShardWriter
from moe_lm.checkpoint.weights import Progress, outlines
from moe_lm.checkpoint.write import named_parts
from moe_lm.checkpoint.write_gguf import rounded_before
from moe_lm.config import ModelConfig, to_hf
from moe_lm.errors import ModelError, Unsupported
from moe_lm.quant import gptq
from moe_lm.quant.encode import LARGEST

SHARD_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Plan:
    """A folder that can be written: everything but the values of its tensors."""

    checkpoint: Checkpoint
    group_size: int
    weights: int  # of the model
    quantised: int  # of them
    nbytes: int

    @property
    def weight_bytes(self) -> int:
        """What the tensors take, which is nearly the whole folder."""
        return self.nbytes

    @property
    def kinds(self) -> dict[str, int]:
        """How many weights are of which type."""
        return {"int4": self.quantised, "float16": self.weights - self.quantised}

    @property
    def notices(self) -> tuple[str, ...]:
        found = ["rounded to the nearest level, without calibration data: GPTQ's layout, not its algorithm"]
        if self.group_size != gptq.GROUP_SIZES[0]:
            found.append(f"groups of {self.group_size} weights, since rows are no multiples of {gptq.GROUP_SIZES[0]}")
        if (stored := self.checkpoint.stored) and stored.is_rounded:
            found.append(rounded_before(stored.precision))
        return tuple(found)

    def write(self, folder: Path, progress: Progress | None = None) -> None:
        """Write the folder under another name, then rename it; one at `folder` must be empty. Raises ModelError as the source, OSError."""
        folder = folder.resolve()  # a link can't be replaced by a folder
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        partial.mkdir(parents=True)
        try:
            self._write(partial, progress)
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _write(self, folder: Path, progress: Progress | None) -> None:
        settings, quantization, done = folder / "config.json", gptq.config(self.group_size), 0
        for name, content in (
            ("config.json", to_hf(self.checkpoint.config, "float16") | {"quantization_config": quantization}),
            ("quantize_config.json", quantization),
        ):
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        shards = ShardWriter(folder, settings, SHARD_BYTES)
        for parameter, value in self.checkpoint.stream():
            for name, part in named_parts(self.checkpoint.config, parameter, value):
                for tensor, stored in _stored(name, part, is_quantised(parameter), self.group_size):
                    shards.add(tensor, stored)
                done += part.numel()
                if progress:
                    progress(done, self.weights)
            del value, part  # before the next one takes memory
        shards.close()
        self.checkpoint.tokenizer.save(folder)


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises Unsupported where rows are no whole groups."""
    matrices, others = list[torch.Size](), 0
    for parameter, _, shape in _tensors(checkpoint.config):
        if is_quantised(parameter):
            matrices.append(shape)
        else:
            others += shape.numel()
    widths, heights = {shape[1] for shape in matrices}, {shape[0] for shape in matrices}
    group_size = next((size for size in gptq.GROUP_SIZES if not any(width % size for width in widths)), None)
    if group_size is None:
        odd = min(width for width in widths if width % gptq.GROUP_SIZES[-1])
        raise Unsupported(f"the model can't be written as int4: rows of {odd} are no multiple of {gptq.GROUP_SIZES[-1]}; try gguf:q4_0")
    if odd := min((height for height in heights if height % 8), default=0):
        raise Unsupported(f"the model can't be written as int4: a matrix has {odd} rows, no multiple of 8; try gguf:q4_0")
    quantised = sum(shape.numel() for shape in matrices)
    nbytes = sum(gptq.nbytes(shape[0], shape[1], group_size) for shape in matrices) + 2 * others
    return Plan(checkpoint, group_size, quantised + others, quantised, nbytes)


def is_quantised(parameter: str) -> bool:
    """Is this parameter of the decoder quantised? Those of attention, FFNs and experts are, but biases, norms, routers and gates."""
    return parameter.endswith("_proj.weight") or ".experts." in parameter


def _tensors(config: ModelConfig) -> Iterator[tuple[str, str, torch.Size]]:
    for parameter, value in outlines(config).items():
        yield from ((parameter, name, part.shape) for name, part in named_parts(config, parameter, value))


def _stored(name: str, value: Tensor, quantised: bool, group_size: int) -> Iterator[tuple[str, Tensor]]:
    try:
        if quantised:
            parts = gptq.pack(value, group_size)
            yield from ((f"{name.removesuffix('weight')}{part}", parts[part]) for part in gptq.PARTS)
            return
    except ModelError as error:
        raise ModelError(f"tensor {name} can't be written: {error}") from None
    if value.abs().max() > LARGEST:
        raise ModelError(f"tensor {name} can't be written: it holds {float(value.abs().max()):g}, and float16 ends at {LARGEST:,.0f}")
    yield name, value.to(torch.float16)
