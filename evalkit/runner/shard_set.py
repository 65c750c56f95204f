"""The shards that are merged: all of one plan and one model, each once, each whole. Nothing is read but their run.json."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from evalkit import __version__
from evalkit.codec import decode, encode
from evalkit.config import RunConfig
from evalkit.errors import EvalkitError
from evalkit.record.read import read_run, run_folder
from evalkit.record.schema import Environment, MergedShard, Run, Shard

ANSWERED_BY = ("fingerprint", "dtype", "device", "kernel", "layout_invariant", "max_seq_len", "chat_template", "chat_template_args")
MOST_NAMED = 8  # shards in a message


@dataclass(frozen=True, slots=True)
class Part:
    """A shard's folder and its run.json."""

    path: str
    run: Run
    shard: Shard

    @property
    def folder(self) -> Path:
        return run_folder(self.path)


def read_parts(paths: Sequence[str]) -> list[Part]:
    """The shards at these paths, in order. Raises EvalkitError, in one line, for anything but all shards of one run."""
    parts = sorted((_read(path) for path in paths), key=lambda part: part.shard.index)
    first, of = parts[0], parts[0].shard.of
    for part in parts:
        if part.shard.of != of:
            raise _differ(first, part, "they were cut into", of, part.shard.of, "merge those of one N in I/N")
    for part in parts:
        if part.shard.plan_sha256 != first.shard.plan_sha256:
            raise _differ(first, part, *_other_plan(first, part), "run one of them again with the other's settings")
    for one, other in pairwise(parts):
        if one.shard.index == other.shard.index:
            raise EvalkitError(f"{one.path} and {other.path} are both shard {one.shard}; give each shard once")
    for part in parts:
        if not part.shard.finished:
            raise EvalkitError(f"{part.path}, shard {part.shard}, is unfinished; run `{part.run.command}` again to finish it, then merge")
    if missing := sorted(set(range(1, of + 1)) - {part.shard.index for part in parts}):
        named = ", ".join(f"{index}/{of}" for index in missing[:MOST_NAMED]) + (", .." if len(missing) > MOST_NAMED else "")
        raise EvalkitError(f"{len(missing)} of {of} shards are missing: {named}; run them, and give all {of} to evalkit merge")
    for part in parts:
        _require_same_model(first, part)
    return parts


def whole_config(parts: Sequence[Part]) -> RunConfig:
    """The configuration of the whole run. Raises EvalkitError where run.json has none that is one."""
    return decode(RunConfig, dict(parts[0].shard.settings), f"{parts[0].path}: shard.settings", "run the shard again with --fresh")


def merged_shard(part: Part) -> MergedShard:
    """What the whole run's record keeps of a shard."""
    run = part.run
    return MergedShard(index=part.shard.index, command=run.command, started=run.started, seconds=run.seconds, environment=run.environment)


def earliest(starts: Sequence[str]) -> str:
    """The first of some times, each with its own time zone."""
    return min(starts, key=datetime.fromisoformat)


def environment_of(environments: Sequence[Environment]) -> Environment:
    """One environment for all: of what differs every value, once each; None for cores, which are no one number."""

    def common(name: str) -> Any:
        values = list(dict.fromkeys(getattr(each, name) for each in environments))
        if len(values) == 1:
            return values[0]
        return None if name == "cores" else ", ".join("none" if value is None else value for value in values)

    return Environment(**{field.name: common(field.name) for field in fields(Environment)})


def _read(path: str) -> Part:
    run = read_run(path)
    if run.shard is None:
        what = "a run that was merged already" if run.merged else "a run without --shard"
        raise EvalkitError(f"{path} is {what}; evalkit merge takes the shards of one run, made by evalkit run .. --shard I/N")
    if run.shard.evalkit != __version__:
        raise EvalkitError(
            f"{path} was made by evalkit {run.shard.evalkit}, and this is {__version__}; merge with that one, or run "
            f"`{run.command}` again with this one (answers that are there are not asked again)"
        )
    _require_as_run(path, run, run.shard)
    return Part(path, run, run.shard)


def _require_as_run(path: str, run: Run, shard: Shard) -> None:
    """Raises EvalkitError where what run.json shows is not what its shard was run with, or its start is no time with a zone."""
    shown: dict[str, tuple[Any, Any]] = {
        "status": (run.status, "incomplete"),
        "limit": (run.limit, shard.settings.get("limit")),
        "seed": (run.seed, shard.settings.get("seed", 0)),
    }
    for name, (value, was) in shown.items():
        if value != was:
            raise EvalkitError(
                f"{path}: {name} is {value!r} in its run.json, and the shard was run with {was!r}; take the file as it was written"
            )
    if not 1 <= shard.index <= shard.of:
        raise EvalkitError(f"{path}: shard.index is {shard.index} of {shard.of} in its run.json; take the file as it was written")
    try:
        zoned = datetime.fromisoformat(run.started).tzinfo is not None
    except ValueError:
        zoned = False
    if not zoned:
        raise EvalkitError(
            f"{path}: started is {run.started!r:.60} in its run.json, which is no time with a zone; take the file as it was written"
        )


def _other_plan(first: Part, part: Part) -> tuple[str, Any, Any]:
    """What differs in the plans of two shards, and both values."""
    one, other = first.shard.settings, part.shard.settings
    asked = [field for field in fields(RunConfig) if field.name not in ("model", "engine", "device", "dtype", "kernel", "data")]
    for field in asked:
        values = one.get(field.name, encode(field.default)), other.get(field.name, encode(field.default))
        if values[0] != values[1]:
            return f"{field.name} is", *values
    for key, entry in first.run.tasks.items():
        if (theirs := part.run.tasks.get(key)) is None:
            continue
        if entry.protocol_sha256 != theirs.protocol_sha256:
            one_name, other_name = (f"{each.protocol} ({each.protocol_sha256[:8]})" for each in (entry, theirs))
            return f"the protocol of {key} is", one_name, other_name
        if entry.data.sha256 != theirs.data.sha256:
            return f"the data of {key} are", entry.data, theirs.data
    return "the documents and prompts have the hash", first.shard.plan_sha256[:12], part.shard.plan_sha256[:12]


def _require_same_model(first: Part, part: Part) -> None:
    one, other = first.run.model, part.run.model
    if one.engine.partition(":")[0] != other.engine.partition(":")[0]:  # what follows may be an address of its own for each machine
        raise _differ(first, part, "the engine is", one.engine, other.engine, "run one of them again with the other's engine")
    for name in ANSWERED_BY:
        if (here := getattr(one, name)) != (there := getattr(other, name)):
            raise _differ(first, part, f"the model's {name} is", here, there, "run one of them again with the other's model and settings")


def _differ(first: Part, part: Part, what: str, here: Any, there: Any, fix: str) -> EvalkitError:
    return EvalkitError(f"{first.path} and {part.path} are not of one run: {what} {here} in the first and {there} in the second; {fix}")
