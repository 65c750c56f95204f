"""`evalkit ls` and `evalkit data`: what there is, where it comes from, and whether it is what it claims to be."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from evalkit.data.sources import FolderSource, HubSource, fetch, open_source
from evalkit.errors import DataError, EvalkitError, first_line, unknown
from evalkit.files import write_atomically
from evalkit.lm.models import MODELS, local_path
from evalkit.progress import console
from evalkit.record.read import read_run
from evalkit.report.inputs import read_bench
from evalkit.report.published import column_for
from evalkit.report.screen import decimal, interval
from evalkit.report.verdict import measured_figure
from evalkit.tasks import Task, TextFile
from evalkit.tasks.registry import task_classes

RIGHT = ("documents", "measured", "n")  # columns of figures
WAITS = "waits for a judge"


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *remarks: str) -> None:
    """A table of plain texts, and what to say below it."""
    screen = console()
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in RIGHT else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    screen.print(table)
    for line in remarks:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)


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
    """The runs of a folder, the latest last, a line a task; and what can be done with them."""
    found = sorted((run for file in out.glob("*/run.json") for run in _run(file)), key=lambda run: (run[0], run[1]))
    timed = [_bench(file) for file in sorted(out.glob("*/bench.json"))]
    if not found and timed:
        print("\n".join(timed))
        return
    if not found:
        print(f"no runs in {out} yet; the first one: evalkit run --tasks mmlu,gsm8k")
        return
    head = ("run", "status", "model", "task", "measured", "95% interval", "n", "data")
    names = list(dict.fromkeys(name for _, name, _ in found))
    remarks = [f"{len(names)} run{'s' if len(names) > 1 else ''} in {out}", *timed]
    incomplete = dict.fromkeys(name for _, name, row in found if row[0] == "incomplete")
    remarks += [f"{name} is incomplete: the same command again goes on" for name in incomplete]
    waiting = [(name, row[2]) for _, name, row in found if row[4] == WAITS]
    remarks += [f"{task} waits for a judge: evalkit judge {out / name} --judge-model NAME" for name, task in waiting]
    remarks.append(f"next: evalkit report {out}/* --out report")
    if len(names) > 1:
        remarks.append(f"  or: evalkit compare {out / names[-2]} {out / names[-1]}")
    rows = [(name if i == 0 or found[i - 1][1] != name else "", *row) for i, (_, name, row) in enumerate(found)]
    _print(f"runs in {out}", head, rows, *remarks)


def _run(file: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    """(when started, name, cells) of each task of a run."""
    name = file.parent.name
    try:
        record = read_run(str(file))
        status, spec = record["status"], record["model"]["spec"]
        rows = [(status, spec, key, *_figure(key, entry)) for key, entry in record["tasks"].items()]
        return [(record["started"], name, row) for row in rows or [(status, spec, "-", "-", "-", "-", "-")]]
    except (EvalkitError, KeyError, TypeError, AttributeError) as error:
        return [("", name, ("unreadable", "-", first_line(error), "-", "-", "-", "-"))]


def _bench(file: Path) -> str:
    """One line on a bench record."""
    try:
        bench = read_bench(file)
        return f"{file.parent.name}: {bench['model']['spec']}, {bench['requests_per_second']:.3g} requests/s on {bench['device']}"
    except (EvalkitError, KeyError, TypeError) as error:
        return f"{file.parent.name}: unreadable: {first_line(error)}"


def _figure(key: str, entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Measured, interval, n and data of one task."""
    column = column_for(key.partition("@")[0])
    figure = measured_figure(entry, column)
    n = f"{entry['n']:,}" if entry["n"] == entry["n_total"] else f"{entry['n']:,} of {entry['n_total']:,}"
    data = f"{entry['data']['source']} {entry['data']['sha256'][:8]}"
    if figure is None:
        return "-", WAITS if entry["counts"].get("unscored") else "-", n, data
    return decimal(figure.value, column), interval(figure, column), n, data


SHOW: dict[str, Callable[[Path], None]] = {"tasks": _tasks, "protocols": _protocols, "models": _models, "runs": _runs}


def _chosen(names: Sequence[str]) -> list[type[Task]]:
    classes = task_classes()
    for name in names:
        if name not in classes:
            raise unknown("task", name, classes)
    return [classes[name] for name in names or (name for name, cls in classes.items() if not cls.part_of)]


def _read(cls: type[Task], source: FolderSource | HubSource) -> tuple[str, str, int]:
    """(state, detail, documents) of one task in a source that nothing was read from yet."""
    try:
        if (suite := cls.check_cells(source)) is not None:
            return suite
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
    found = {cls.name: _read(cls, open_source(spec)) for cls in _chosen(names)}
    good = [name for name, (state, _, _) in found.items() if state in ("official", "sample")]
    rows = [(name, state, f"{documents:,}", detail) for name, (state, detail, documents) in found.items()]
    if open_source(spec).kind == "sample":
        summary = f"the bundled sample is whole for {len(good)} of {len(found)} tasks; no benchmark's figure comes from it"
    else:
        summary = f"{len(good)} of {len(found)} tasks have the official rows, to the byte"
    remarks = [summary]
    if bad := [name for name in found if name not in good]:
        remarks.append(f"look into: {', '.join(bad)}; a run on them stops, or its figures do not compare")
    if good:
        remarks.append(f"next: evalkit run --tasks {','.join(good)} --data {spec}")
    _print(f"data in {spec}", ("task", "state", "documents", "sha256 of the rows, or what is wrong"), rows, *remarks)
    return 0 if len(good) == len(found) else 2


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
