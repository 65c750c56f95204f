"""`evalkit quantize`: any checkpoint that the native engine reads -> a GGUF file, or a folder of int4 weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import EvalkitError, RunIncomplete, unknown
from evalkit.files import require_file, unwritable
from evalkit.lm.models import find
from evalkit.lm.native import one_line, random_configuration

if TYPE_CHECKING:
    from evalkit.progress import Reporter
    from moe_lm.checkpoint.read import Checkpoint
    from moe_lm.checkpoint.write_gguf import Plan

GGUF = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q4_k_m", "q5_k", "q5_k_m", "q6_k")
FORMATS = tuple(f"gguf:{name}" for name in GGUF)


def quantize(source: str, dest: Path, format: str, reporter: Reporter | None = None) -> str:
    """Write `dest`, which must not be there yet; returns a summary. Needs memory for the largest parameter in float32.

    Raises EvalkitError, in one line, where `source` can't be found or the format can't hold it; RunIncomplete where the disk is full.
    """
    from evalkit.progress import Reporter

    reporter = reporter or Reporter(quiet=True)
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if os.path.lexists(dest):
        raise EvalkitError(f"{dest} is there already; name another file, or remove it")
    if dest.suffix != ".gguf":
        raise EvalkitError(f"DEST {dest} must end with .gguf, as --format {format} writes a file")
    require_file(dest, "DEST")
    with reporter.bar("reading the source", 1, counted=False):
        plan = _plan(source, format.partition(":")[2])
    _require_space(dest, plan.nbytes)
    for notice in plan.notices:
        reporter.say(notice)
    try:
        with one_line(), reporter.bar(f"writing {dest.name}", 1000, counted=False) as advance:
            plan.write(dest, lambda done, total: advance(done * 1000 // total))
    except OSError as error:
        raise unwritable(dest, error) from None
    return _summary(dest, plan)


def _plan(source: str, name: str) -> Plan:
    from moe_lm.checkpoint.read import open_checkpoint
    from moe_lm.checkpoint.write_gguf import gguf_in, plan, replan
    from moe_lm.quant.file_types import FILE_TYPES

    with one_line():
        if source.startswith("random:"):
            return plan(_random(source), FILE_TYPES[name], source)
        found = find(source)
        if found.upcycle:
            raise EvalkitError(
                f"model {source} is upcycled when it is loaded; write it with evalkit upcycle first, or start from its dense twin"
            )
        checkpoint = open_checkpoint(found.path)
        if file := gguf_in(found.path):
            return replan(file, checkpoint.config, FILE_TYPES[name])
        return plan(checkpoint, FILE_TYPES[name], found.path.resolve().name)


def _random(source: str) -> Checkpoint:
    from moe_lm.checkpoint.random_weights import random_checkpoint

    return random_checkpoint(random_configuration(source))


def _require_space(dest: Path, needed: int) -> None:
    place = next(folder for folder in dest.absolute().parents if folder.exists())
    if (free := shutil.disk_usage(place).free) < needed:
        raise RunIncomplete(
            f"{dest} takes {needed / 1e9:.1f} GB, and {place} has {free / 1e9:.1f} GB free; free some space, or give another DEST"
        )


def _summary(dest: Path, plan: Plan) -> str:
    from collections import Counter

    weights = Counter[str]()
    for entry in plan.entries:
        weights[entry.kind] += entry.weights
    kinds = ", ".join(f"{kind} {count / weights.total():.1%}" for kind, count in weights.most_common())
    bits = 8 * plan.nbytes / weights.total()
    lines = [f"wrote {dest}: {plan.nbytes / 1e9:.2f} GB, {weights.total():,} weights at {bits:.2f} bits ({kinds})"]
    return "\n".join((*lines, *(f"  {notice}" for notice in plan.notices)))
