"""`evalkit data`: which benchmark data is present, whether its rows are the official ones, and downloads."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cli.options import add_shared, with_data
from evalkit.cli.output import Listing, add_json, present
from evalkit.errors import DataError, EvalkitError
from evalkit.table import Table
from evalkit.tasks import DataState, SuiteTask

if TYPE_CHECKING:
    from evalkit.data.sources import FolderSource, HubSource
    from evalkit.tasks import Task, TextFile


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Put the command into the parser."""
    data = commands.add_parser(
        "data",
        help="list, verify or download benchmark data",
        description="List, verify or download benchmark data.",
        examples=(
            "evalkit data status --data DIR",
            "evalkit data verify mmlu gsm8k --data DIR",
            "evalkit data fetch mmlu --data hub",
        ),
    )
    data.add_argument("action", choices=ACTIONS, help="list the files, compare their rows with the official ones, or download them")
    data.add_argument("tasks", nargs="*", metavar="TASK", help="tasks, as --tasks of evalkit run names them (default: all)")
    add_shared(data, "data", helps={"data": "hub, sample, or a folder (default: EVALKIT_DATA, else sample)"})
    add_json(data, "what was found, or downloaded,")
    data.set_defaults(command=_data)


def _data(arguments: argparse.Namespace) -> int:
    listing, code = ACTIONS[arguments.action](with_data(vars(arguments)).get("data", "sample"), arguments.tasks)
    present(arguments, listing.as_json, listing.show)
    return code


def status(spec: str, names: Sequence[str]) -> tuple[Listing, int]:
    """List how many of each task's tables are present, and which of its protocols' other files are not."""
    from evalkit.data.sources import FolderSource, open_source

    source = open_source(spec)
    rows: list[tuple[str, str, str]] = []
    found: list[dict[str, Any]] = []
    for cls in _chosen(names):
        paths = [table.path for table in cls.tables(source)]
        if cls.file:
            rows.append((cls.name, cls.file, f"{cls.official_n:,} documents" if cls.official_n else "read by its own code"))
            found.append({"task": cls.name, "source": cls.file, "n": cls.official_n or None})
            continue
        if isinstance(source, FolderSource):
            here = sum((source.folder / path).exists() for path in paths)
            others = [file.path for file in cls.text_files if not any((source.folder / (file.path + end)).exists() for end in ("", ".gz"))]
            state = f"{here} of {len(paths)} files" + (f", without {', '.join(others)}" if others else "")
            record: dict[str, Any] = {"files": len(paths), "present": here, "without": others}
        else:
            state = f"{len(paths)} tables at pinned revisions"
            record = {"tables": len(paths)}
        rows.append((cls.name, source.kind, state))
        found.append({"task": cls.name, "source": source.kind, **record})
    return Listing("data", Table(f"data in {spec}", ("task", "source", "state"), rows, left=("source",), folds=("state",)), found), 0


def verify(spec: str, names: Sequence[str]) -> tuple[Listing, int]:
    """Compare rows with the official ones. The exit code is 0 if all are (or the sample is complete), else 2."""
    from evalkit.data.sources import open_source

    found = {cls.name: _read(cls, open_source(spec)) for cls in _chosen(names)}
    good = [name for name, data in found.items() if data.state in ("official", "sample", "your own")]
    rows = [(name, data.state, f"{data.documents:,}", data.detail) for name, data in found.items()]
    if open_source(spec).kind == "sample":
        summary = f"the bundled sample is complete for {len(good)} of {len(found)} tasks; its figures are not the benchmarks'"
    else:
        summary = f"{len(good)} of {len(found)} tasks have the official rows"
    remarks = [summary]
    if bad := [name for name in found if name not in good]:
        remarks.append(f"check {', '.join(bad)}: a run on them stops, or its figures are not comparable")
    if good:
        remarks.append(f"next: evalkit run --tasks {','.join(good)} --data {spec}")
    detail = "sha256 of the rows, or what is wrong"
    table = Table(f"data in {spec}", ("task", "state", "documents", detail), rows, folds=("state", detail))
    records = [
        {"task": name, "state": data.state, "n": data.documents, "sha256" if name in good else "problem": data.detail}
        for name, data in found.items()
    ]
    return Listing("data", table, records, remarks), 0 if len(good) == len(found) else 2


def fetch(spec: str, names: Sequence[str]) -> tuple[Listing, int]:
    """Download tables into the hub's cache, or the protocols' worked examples into a folder."""
    from evalkit.data.sources import HubSource, open_source

    source = open_source(spec)
    if source.kind == "sample":
        raise EvalkitError("the sample is bundled; give --data hub or --data DIR")
    found: list[dict[str, Any]] = []
    for cls in _chosen(names):
        tables = cls.tables(source) if isinstance(source, HubSource) else []
        for table in tables:
            source.rows(table)
        written = [str(path) for file in cls.text_files if (path := _fetch_text(file, source))]
        found.append({"task": cls.name, "tables": len(tables), "written": written})
    return Listing("data", Table("", (), ()), found, [f"wrote {path}" for each in found for path in each["written"]]), 0


def _chosen(names: Sequence[str]) -> list[type[Task]]:
    """A task's data are the same under every protocol."""
    from evalkit.tasks.registry import resolve, task_classes

    if chosen := [name for part in names for name in part.split(",") if name]:
        return list(dict.fromkeys(type(resolve(name)) for name in chosen))
    return [cls for cls in task_classes().values() if not (issubclass(cls, SuiteTask) and cls.part_of)]


def _read(cls: type[Task], source: FolderSource | HubSource) -> DataState:
    """The state of one task's data, in a source from which nothing has been read yet."""
    if issubclass(cls, SuiteTask):
        return cls.check_data(source)
    try:
        for table in cls.tables(source):
            source.rows(table)
        digest = source.sha256()  # of the tables alone: loading adds a protocol's worked examples
        documents = len(cls(cls.protocols[cls.default_protocol]).load(source))
    except DataError as error:
        return DataState("missing or broken", str(error), 0)
    if cls.file:
        return DataState("your own", source.sha256(), documents)
    if source.kind == "sample":
        return DataState("sample", digest, documents)
    return DataState("official" if digest == cls.official_sha256 else "differs from the official rows", digest, documents)


def _fetch_text(file: TextFile, source: FolderSource | HubSource) -> Path | None:
    """The file that was written, if it was missing from the folder."""
    from evalkit.data import sources
    from evalkit.files import write_output

    if isinstance(source, sources.HubSource):
        source.text(file)
        return None
    path = source.folder / file.path
    if path.exists():
        return None
    write_output(path, file.render(sources.fetch(file)))
    return path


ACTIONS: dict[str, Callable[[str, Sequence[str]], tuple[Listing, int]]] = {"status": status, "verify": verify, "fetch": fetch}
