"""A gate in one file that others can check without a model: `evalkit gate .. --bundle FILE`, then `evalkit audit FILE`.

A zip archive of policy.json (what was asked), gate.json (what was decided), gate.toml if the gate has one, and of both runs run.json and
the samples of the tasks gated: all that the decision depends on. The archive's comment is the SHA-256 of every byte before it, so one
changed byte is found. The samples hold the benchmark's documents: a bundle is no more public than they are.
"""

import hashlib
import io
import json
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

from evalkit.bench.record import bench_file
from evalkit.codec import OPTIONAL, decode, encode, parse_json
from evalkit.comparison.gate_config import ORDERS, GateConfig, Margins, Sequential
from evalkit.comparison.policy import Policy
from evalkit.errors import EvalkitError
from evalkit.record.read import is_ours, read_complete, run_folder, samples_file
from evalkit.record.schema import task_of

SCHEMA: Final = 1
RUNS = ("base", "cand")
MARK = "sha256:"
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every entry: the same gate gives the same bytes
# what zipfile raises for an archive that is none, or is packed in another way
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError, ValueError)
LARGEST = 8 << 30  # bytes of a bundle's files, unpacked
FIX = "ask for the bundle again"
_NAME = re.compile(r"policy\.json|gate\.(json|toml)|(base|cand)/(run\.json|bench\.json|samples/[^/\\\0]+\.jsonl)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Of a gate that stopped by itself."""

    order_seed: int
    block: int | None
    max_documents: int | None
    order: str = field(default=ORDERS[0], metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """policy.json: what the gate was asked, and by which evalkit. `runs`: the paths that it was given, for the reader alone."""

    schema: Literal[1] = SCHEMA
    evalkit: str
    runs: tuple[str, ...]
    margin: float | None
    margins: Mapping[str, float] = field(default_factory=dict)
    tasks: tuple[str, ...]
    metric: str | None
    cluster: str | None
    allow_small_margin: bool
    order: Order | None = field(default=None, metadata=OPTIONAL)
    policy_sha256: str | None = field(default=None, metadata=OPTIONAL)
    bench: tuple[str, ...] = field(default=(), metadata=OPTIONAL)

    def config(self, base: Path, cand: Path) -> GateConfig:
        """The same gate on these folders, and on the gate.toml beside them."""
        return GateConfig(
            (str(base), str(cand)),
            Margins(self.margin, self.margins),
            tasks=self.tasks,
            metric=self.metric,
            cluster=self.cluster,
            allow_small_margin=self.allow_small_margin,
            bench=(str(base / "bench.json"), str(cand / "bench.json")) if self.bench else (),
            policy=str(base.parent / "gate.toml") if self.policy_sha256 else None,
            sequential=Sequential(None, **asdict(self.order)) if self.order else None,
        )


def policy_of(config: GateConfig) -> Asked:
    """Raises EvalkitError for a gate that a bundle cannot hold, before anything is decided."""
    from evalkit import __version__

    how = config.sequential
    if config.against or (how and how.run is not None):
        fix = (
            "its figures are published: check those" if config.against else "finish the candidate's run, and give --replay-order BASE CAND"
        )
        raise EvalkitError(f"--bundle holds two finished runs, and this gate has one; {fix}")
    if lacking := [run for run in config.runs if not is_ours(run)]:
        raise EvalkitError(f"--bundle holds runs of evalkit, and {lacking[0]} is another program's; bundle its own results folder")
    return Asked(
        evalkit=__version__,
        runs=config.runs,
        margin=config.margins.default,
        margins=config.margins.by_task,
        tasks=config.tasks,
        metric=config.metric,
        cluster=config.cluster,
        allow_small_margin=config.allow_small_margin,
        bench=config.bench,
        order=Order(**{each.name: getattr(how, each.name) for each in fields(Order)}) if how else None,
    )


def packed(asked: Asked, gate: Mapping[str, Any], policy: Policy | None = None) -> bytes:
    """The bundle. `gate`: gate.json; `policy`: the gate.toml that decided, if one did."""
    if policy:
        asked = replace(asked, policy_sha256=policy.sha256)
    files = {"policy.json": _text(encode(asked)), "gate.json": _text(gate)}
    if policy:
        files["gate.toml"] = policy.raw
    wanted = {task.partition("/")[0] for task in (asked.tasks if policy is None else [rule.task for rule in policy.rules])}
    for name, path in zip(RUNS, asked.runs, strict=True):
        folder = run_folder(path)
        files[f"{name}/run.json"] = (folder / "run.json" if Path(path).is_dir() else Path(path)).read_bytes()
        for task, entry in read_complete(path).tasks.items():
            if not wanted or wanted & {task, f"{task_of(task)}@{entry.protocol}"}:
                file = samples_file(folder, task)
                files[f"{name}/samples/{file.name}"] = file.read_bytes()
    for name, path in zip(RUNS, asked.bench, strict=False):
        files[f"{name}/bench.json"] = bench_file(path).read_bytes()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
        zipped.comment = _digest(b"")  # of the right length: the digest covers the comment's length too
    body = archive.getvalue()[: -len(_digest(b""))]
    return body + _digest(body)


def unpack(file: Path, folder: Path) -> tuple[Asked, Any]:
    """Write a bundle's runs into a folder; returns what was asked, and its gate.json.

    Raises EvalkitError where one byte is not as it was written, or the archive holds anything else than a bundle does.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise EvalkitError(f"cannot read {file}: {error.strerror}; give a file that evalkit gate --bundle wrote") from None
    length = len(_digest(b""))
    body, comment = raw[:-length], raw[-length:]
    if not comment.startswith(MARK.encode()) or not body:
        raise EvalkitError(f"{file} is no bundle of evalkit gate, or its end is missing or changed; {FIX}")
    if comment != _digest(body):
        raise EvalkitError(f"{file} is not as it was written: it does not have the SHA-256 that it states; {FIX}")
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as zipped:
            entries = zipped.infolist()
            names = [entry.filename for entry in entries]
            if odd := [name for name in names if not _NAME.fullmatch(name)]:
                raise EvalkitError(f"{file} holds {odd[0]!r}, which is no part of a bundle; {FIX}")
            needed = ("policy.json", "gate.json", *(f"{run}/run.json" for run in RUNS))
            if len({*names}) < len(names) or (lacking := [name for name in needed if name not in names]):
                raise EvalkitError(f"{file} holds a file twice, or lacks {', '.join(lacking) or 'none'}; {FIX}")
            if sum(entry.file_size for entry in entries) > LARGEST:
                raise EvalkitError(f"{file} unpacks to more than {LARGEST >> 30} GiB; gate fewer --tasks at a time")
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(zipped.read(name))
    except DAMAGE as error:
        raise EvalkitError(f"{file} is no bundle of evalkit gate ({error}); {FIX}") from None
    except OSError as error:
        raise EvalkitError(
            f"cannot unpack {file} into {folder}: {error.strerror}; make room there, or name another folder by TMPDIR"
        ) from None
    raw, gate = (_parsed(folder / name, file) for name in ("policy.json", "gate.json"))
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise EvalkitError(f"{file} is a bundle of another version; read it with the evalkit that wrote it")
    asked = decode(Asked, raw, f"{file}: policy.json", FIX)
    rules = folder / "gate.toml"
    if asked.policy_sha256 != (hashlib.sha256(rules.read_bytes()).hexdigest() if rules.exists() else None):
        raise EvalkitError(f"{file} holds another gate.toml than its policy.json names, or none; {FIX}")
    return asked, gate


def _text(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _parsed(path: Path, bundle: Path) -> Any:
    try:
        return parse_json(path.read_text("utf-8"))
    except ValueError as error:
        raise EvalkitError(f"{bundle}: {path.name} cannot be read ({error}); {FIX}") from None


def _digest(body: bytes) -> bytes:
    return f"{MARK}{hashlib.sha256(body).hexdigest()}".encode()
