"""`evalkit quantize`: any checkpoint that the native engine reads -> a GGUF file, or a folder of int4 weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from evalkit.errors import EvalkitError, RunIncomplete, unknown
from evalkit.files import require_file, require_new_folder, writing_weights
from evalkit.lm.models import find, require_known
from evalkit.lm.native import random_configuration
from evalkit.lm.tokenized import one_line

if TYPE_CHECKING:
    from evalkit.progress import Reporter

GGUF = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q4_k_m", "q5_k", "q5_k_m", "q6_k")
GPTQ = "gptq-int4"
FORMATS = (*(f"gguf:{name}" for name in GGUF), GPTQ)


class Plan(Protocol):
    """What `moe_lm.checkpoint.write_gguf` and `write_gptq` plan."""

    @property
    def nbytes(self) -> int: ...

    @property
    def weight_bytes(self) -> int: ...

    @property
    def kinds(self) -> Mapping[str, int]: ...

    @property
    def notices(self) -> tuple[str, ...]: ...

    def write(self, path: Path, progress: Callable[[int, int], None] | None = None, /) -> None: ...


def quantize(source: str, dest: Path, format: str, reporter: Reporter | None = None) -> str:
    """Write `dest`, which must not be there yet; returns a summary. Needs memory for the largest parameter in float32.

    Raises EvalkitError, in one line, where `source` can't be found or the format can't hold it; RunIncomplete where the disk is full.
    """
    from evalkit.progress import Reporter

    reporter = reporter or Reporter(quiet=True)
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    _require_new(dest, format)
    require_known(source)
    with reporter.bar("reading the source", 1, counted=False):
        plan = _plan(source, format)
    _require_space(dest, plan.nbytes)
    with writing_weights(dest), one_line(), reporter.bar(f"writing {dest.name}", 1000, counted=False) as advance:
        plan.write(dest, lambda done, total: advance(done * 1000 // total))
    return _summary(dest, plan)


def _require_new(dest: Path, format: str) -> None:
    if format == GPTQ:
        if dest.suffix == ".gguf":
            raise EvalkitError(f"DEST {dest} is the name of a GGUF file, and --format {format} writes a folder; give another name")
        if dest.resolve() == Path.cwd():  # it would be replaced, and the shell would stand in one that is gone
            raise EvalkitError(f"DEST {dest} is the current folder; name one in it")
        require_new_folder(dest, "DEST")
        return
    if os.path.lexists(dest):
        raise EvalkitError(f"{dest} is there already; name another file, or remove it")
    if dest.suffix != ".gguf":
        raise EvalkitError(f"DEST {dest} must end with .gguf, as --format {format} writes a file")
    require_file(dest, "DEST")


def _plan(source: str, format: str) -> Plan:
    from moe_lm.checkpoint import write_gguf, write_gptq
    from moe_lm.checkpoint.random_weights import random_checkpoint
    from moe_lm.checkpoint.read import open_checkpoint
    from moe_lm.quant.file_types import FILE_TYPES

    file_type = FILE_TYPES.get(format.removeprefix("gguf:"))
    with one_line():
        if source.startswith("random:"):
            checkpoint, path, name = random_checkpoint(random_configuration(source)), None, source
        else:
            found = find(source)
            if found.upcycle:
                twin = "start from its dense twin, or from what evalkit upcycle writes"
                raise EvalkitError(f"model {source} is upcycled when it is loaded; {twin}")
            checkpoint, path, name = open_checkpoint(found.path), write_gguf.gguf_in(found.path), found.path.resolve().name
        if file_type is None:
            return write_gptq.plan(checkpoint)
        return write_gguf.replan(path, checkpoint.config, file_type) if path else write_gguf.plan(checkpoint, file_type, name)


def _require_space(dest: Path, needed: int) -> None:
    place = next(folder for folder in dest.absolute().parents if folder.exists())
    if (free := shutil.disk_usage(place).free) < needed:
        sizes = f"{needed / 1e9:.1f} GB, and {place} has {free / 1e9:.1f} GB free"
        raise RunIncomplete(f"{dest} takes {sizes}; free some space, or give another DEST")


def _summary(dest: Path, plan: Plan) -> str:
    total = sum(plan.kinds.values())
    ordered = sorted(plan.kinds.items(), key=lambda each: -each[1])
    kinds = ", ".join(f"{kind} {count / total:.1%}" for kind, count in ordered)
    written = sum(file.stat().st_size for file in (dest.iterdir() if dest.is_dir() else [dest]))
    first = f"wrote {dest}: {written / 1e6:,.1f} MB, {total:,} weights at {8 * plan.weight_bytes / total:.1f} bits ({kinds})"
    return "\n".join((first, *(f"  {notice}" for notice in plan.notices)))
