"""`evalkit ls` and `evalkit data`: what there is, where it comes from, and whether it is what it claims to be."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evalkit.api import Task, TextFile
from evalkit.data import FolderSource, HubSource, fetch, open_source
from evalkit.errors import DataError, EvalkitError, unknown
from evalkit.models import MODELS, local_path
from evalkit.record import write_atomically
from evalkit.registry import task_classes


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console = Console()
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    (console if console.is_terminal else Console(width=160)).print(table)


def _tasks(out: Path) -> None:
    rows = [
        (name, f"{cls.official_n:,}", ", ".join(p + (" (default)" if p == cls.default_protocol else "") for p in cls.protocols))
        for name, cls in task_classes().items()
    ]
    _print("tasks", ("task", "documents", "protocols"), rows)


def _protocols(out: Path) -> None:
    rows = [(str(p), p.summary, p.source) for cls in task_classes().values() for p in cls.protocols.values()]
    _print("protocols", ("protocol", "what", "source"), rows)


def _models(out: Path) -> None:
    rows = []
    for name, model in MODELS.items():
        where = "installed" if local_path(model) else model.install or f"hub: {model.hub[0] if model.hub else '-'}"
        rows.append((name, model.summary, where))
    _print("models (or a hub id, a folder, a .gguf file)", ("name", "what", "where"), rows)


def _runs(out: Path) -> None:
    rows = []
    for file in sorted(out.glob("*/run.json")):
        try:
            record = json.loads(file.read_text("utf-8"))
            figures = [
                f"{task} {100 * entry['metrics'][entry['headline']]['value']:.1f} (n {entry['n']:,}, {entry['data']['source']})"
                for task, entry in record["tasks"].items()
            ]
            rows.append((file.parent.name, record["status"], record["model"]["spec"], ", ".join(figures)))
        except (ValueError, KeyError, TypeError) as error:
            rows.append((file.parent.name, "unreadable", "-", repr(error)))
    _print(f"runs in {out}", ("run", "status", "model", "figures"), rows)


SHOW: dict[str, Callable[[Path], None]] = {"tasks": _tasks, "protocols": _protocols, "models": _models, "runs": _runs}


def _chosen(names: Sequence[str]) -> list[type[Task]]:
    classes = task_classes()
    for name in names:
        if name not in classes:
            raise unknown("task", name, classes)
    return [classes[name] for name in names or classes]


def _read(cls: type[Task], source: FolderSource | HubSource) -> tuple[str, str, int]:
    """(state, detail, documents) of one task in a source that nothing was read from yet."""
    try:
        for table in cls.tables(source):
            source.rows(table)
        digest = source.sha256()  # of the tables alone: loading adds a protocol's worked examples
        documents = len(cls(cls.protocols[cls.default_protocol]).load(source))
    except DataError as error:
        return "missing or broken", str(error), 0
    if source.kind == "sample":
        return "sample", digest, documents
    return ("official" if digest == cls.official_sha256 else "differs from the official rows"), digest, documents


def _status(spec: str, names: Sequence[str]) -> int:
    source = open_source(spec)
    rows = []
    for cls in _chosen(names):
        paths = [table.path for table in cls.tables(source)]
        if isinstance(source, FolderSource):
            here = sum((source.folder / path).exists() for path in paths)
            state = f"{here} of {len(paths)} files"
        else:
            state = f"{len(paths)} tables at pinned revisions"
        rows.append((cls.name, source.kind, state))
    _print(f"data in {spec}", ("task", "source", "state"), rows)
    return 0


def _verify(spec: str, names: Sequence[str]) -> int:
    """0 where every task's rows are the official ones (or the sample is whole), else 2."""
    rows, fine = [], True
    for cls in _chosen(names):
        state, detail, documents = _read(cls, open_source(spec))
        fine &= state in ("official", "sample")
        rows.append((cls.name, state, f"{documents:,}", detail))
    _print(f"data in {spec}", ("task", "state", "documents", "sha256 of the rows, or what is wrong"), rows)
    return 0 if fine else 2


def _fetch(spec: str, names: Sequence[str]) -> int:
    """Tables into the hub's cache (hub), or the protocols' worked examples into a folder."""
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


def _fetch_text(file: TextFile, source: FolderSource | HubSource) -> None:
    if isinstance(source, HubSource):
        source.text(file)
    elif not (source.folder / file.path).exists():
        write_atomically(source.folder / file.path, [file.render(fetch(file))])
        print(f"wrote {source.folder / file.path}")


DATA: dict[str, Callable[[str, Sequence[str]], int]] = {"status": _status, "verify": _verify, "fetch": _fetch}
