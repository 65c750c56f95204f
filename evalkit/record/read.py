"""Reading a run's folder: run.json and samples/TASK.jsonl, each parsed once, here, into the types that all else works with."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evalkit.codec import decode, parse_json
from evalkit.errors import EvalkitError
from evalkit.files import encoding_of, read_text
from evalkit.record.consistent import contradictions
from evalkit.record.sample import SampleRow
from evalkit.record.schema import SCHEMA, Run

FIX = "run it again, or read it with the evalkit that wrote it"


def is_ours(path: str) -> bool:
    """Is this evalkit's run (a folder with run.json, or that file), not another program's? Raises EvalkitError where nothing is there."""
    place = Path(path)
    if not place.exists():
        raise EvalkitError(f"{path}: no such run; give a run's folder, a run.json, or results of another program (docs/exchange.md)")
    if place.is_dir():
        return (place / "run.json").exists()
    if place.suffix != ".json" or place.name.startswith("results"):
        return False
    try:
        raw = parse_json(read_text(place, "surrogatepass"))
    except (OSError, ValueError):
        return True  # what is wrong is said where it is read
    return not isinstance(raw, dict) or "schema" in raw


def run_folder(path: str | Path) -> Path:
    """The folder of a run that is named by its folder or its run.json."""
    place = Path(path)
    return place if place.is_dir() else place.parent


def read_run(path: str | Path) -> Run:
    """run.json of a run's folder, or the file itself. Raises EvalkitError where it is missing, damaged or of another schema."""
    file = Path(path) / "run.json" if Path(path).is_dir() else Path(path)
    try:
        raw = parse_json(read_text(file, "surrogatepass"))  # as it was written
    except (OSError, ValueError) as error:
        raise EvalkitError(f"{path} is not a run: cannot read {file} ({error})") from None
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise EvalkitError(f"{file} is not a run.json of schema {SCHEMA}, which this evalkit reads")
    run = decode(Run, raw, str(file), FIX)
    if odd := [key for key in run.tasks if not key or {"/", "\0"} & {*key}]:  # samples/TASK.jsonl would be another file, or none
        raise EvalkitError(f"{file}: tasks has the key {json.dumps(odd[0])}, which cannot name a task; {FIX}")
    if wrong := next(contradictions(run), ""):
        raise EvalkitError(f"{file} contradicts itself: {wrong}; {FIX}")
    return run


def read_complete(path: str | Path) -> Run:
    """`read_run` of a run that has come to its end. Raises EvalkitError for one that has not, and for a shard."""
    run = read_run(path)
    if not run.is_complete:
        raise EvalkitError(f"{path} is {why_incomplete(run)}")
    return run


def why_incomplete(run: Run) -> str:
    """What an incomplete run lacks, and how it gets it."""
    if run.shard is None:
        return f"incomplete; run `{run.command}` again to finish it"
    unfinished = "" if run.shard.finished else f", and unfinished: run `{run.command}` again"
    return f"shard {run.shard} of a run, not the whole{unfinished}; join all {run.shard.of} with `evalkit merge RUN..`"


def read_samples(folder: Path, task: str) -> Iterator[SampleRow]:
    """The samples of one task, by its key in run.json. Raises EvalkitError with the line that does not fit."""
    file = samples_file(folder, task)
    for number, row in enumerate(read_rows(file), start=1):
        yield decode(SampleRow, row, f"{file} line {number}", FIX)


def samples_file(folder: Path, task: str) -> Path:
    """Where a task's samples are kept."""
    return folder / "samples" / f"{task}.jsonl"


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file, ours or lm-eval's. Raises EvalkitError with the line that is damaged."""
    try:
        with open(file, "rb") as raw:
            encoding = encoding_of(raw.read(4))
        with open(file, encoding=encoding, errors="surrogatepass") as f:
            for number, line in enumerate(f, start=1):
                if number == 1 and line.strip() in ("{", "[") and next(f, ""):
                    fix = "jq -c ." if line.strip() == "{" else "jq -c '.[]'"
                    raise EvalkitError(f"{file} is laid out over several lines; samples are an object a line, as `{fix}` writes them")
                try:
                    row = parse_json(line)
                except ValueError as error:
                    raise EvalkitError(f"{file} line {number} is damaged ({error}); run it again") from None
                if not isinstance(row, dict):
                    raise EvalkitError(f"{file} line {number} is not an object; run it again")
                yield row
    except UnicodeDecodeError as error:
        raise EvalkitError(f"{file} is damaged ({error}); run it again") from None
    except OSError as error:
        raise EvalkitError(f"cannot read {file}: {error.strerror}; a run's samples must be in its folder") from None
