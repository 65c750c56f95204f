"""`evalkit data`: which benchmark data is present, whether its rows are the official ones, and downloads."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from evalkit.cli.options import add_shared, with_data
from evalkit.cli.table import print_table
from evalkit.errors import DataError, EvalkitError
from evalkit.tasks import DataState, SuiteTask

if TYPE_CHECKING:
    from evalkit.data.sources import FolderSource, HubSource
    from evalkit.tasks import Task, TextFile


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Put the command into the parser."""
    data = commands.add_parser(
        "data", help="list, verify or download benchmark data", description="List, verify or download benchmark data."
    )
    data.add_argument("action", choices=ACTIONS, help="list the files, compare their rows with the official ones, or download them")
    data.add_argument("tasks", nargs="*", metavar="TASK", help="task names (default: all)")
    add_shared(data, "data", helps={"data": "hub, sample, or a folder (default: EVALKIT_DATA, else sample)"})
    data.set_defaults(command=_data)


def _data(arguments: argparse.Namespace) -> int:
    return ACTIONS[arguments.action](with_data(vars(arguments)).get("data", "sample"), arguments.tasks)


def status(spec: str, names: Sequence[str]) -> int:
    """List how many of each task's tables are present, and which of its protocols' other files are not."""
    from evalkit.data.sources import FolderSource, open_source

    source = open_source(spec)
    rows = []
    for cls in _chosen(names):
        paths = [table.path for table in cls.tables(source)]
        if cls.file:
            rows.append((cls.name, cls.file, f"{cls.official_n:,} documents" if cls.official_n else "read by its own code"))
            continue
        if isinstance(source, FolderSource):
            here = sum((source.folder / path).exists() for path in paths)
            others = [file.path for file in cls.text_files if not any((source.folder / (file.path + end)).exists() for end in ("", ".gz"))]
            state = f"{here} of {len(paths)} files" + (f", without {', '.join(others)}" if others else "")
        else:
            state = f"{len(paths)} tables at pinned revisions"
        rows.append((cls.name, source.kind, state))
    print_table(f"data in {spec}", ("task", "source", "state"), rows)
    return 0


def verify(spec: str, names: Sequence[str]) -> int:
    """Compare rows with the official ones. Returns 0 if all are (or the sample is complete), else 2."""
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
    print_table(f"data in {spec}", ("task", "state", "documents", "sha256 of the rows, or what is wrong"), rows, *remarks)
    return 0 if len(good) == len(found) else 2


def fetch(spec: str, names: Sequence[str]) -> int:
    """Download tables into the hub's cache, or the protocols' worked examples into a folder."""
    from evalkit.data.sources import HubSource, open_source

    source = open_source(spec)
    if source.kind == "sample":
        raise EvalkitError("the sample is bundled; give --data hub or --data DIR")
    for cls in _chosen(names):
        if isinstance(source, HubSource):
            for table in cls.tables(source):
                source.rows(table)
        for file in cls.text_files:
            _fetch_text(file, source)
    return 0


def _chosen(names: Sequence[str]) -> list[type[Task]]:
    from evalkit.tasks.registry import task_class, task_classes

    if names:
        return [task_class(name) for name in names]
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


def _fetch_text(file: TextFile, source: FolderSource | HubSource) -> None:
    from evalkit.data import sources
    from evalkit.files import write_output

    if isinstance(source, sources.HubSource):
        source.text(file)
    elif not (source.folder / file.path).exists():
        write_output(source.folder / file.path, file.render(sources.fetch(file)))
        print(f"wrote {source.folder / file.path}")


ACTIONS: dict[str, Callable[[str, Sequence[str]], int]] = {"status": status, "verify": verify, "fetch": fetch}
