"""`evalkit ls`: lists of tasks, protocols, models and runs."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cli.options import add_shared
from evalkit.cli.table import print_table
from evalkit.config import RUNS
from evalkit.errors import EvalkitError, first_line

if TYPE_CHECKING:
    from evalkit.record.schema import TaskEntry

WAITS = "waits for a judge"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    ls = commands.add_parser("ls", help="list tasks, protocols, models or runs", description="List tasks, protocols, models or runs.")
    ls.add_argument("what", choices=LISTS, help="what to list")
    add_shared(ls, "out")
    ls.set_defaults(command=_ls)


def _ls(arguments: argparse.Namespace) -> None:
    LISTS[arguments.what](Path(getattr(arguments, "out", RUNS)))


def _tasks(out: Path) -> None:
    from evalkit.tasks.registry import task_classes

    rows = [
        (name, f"{cls.official_n:,}", ", ".join(p + (" (default)" if p == cls.default_protocol else "") for p in cls.protocols))
        for name, cls in task_classes().items()
    ]
    print_table("tasks", ("task", "documents", "protocols"), rows)


def _protocols(out: Path) -> None:
    from evalkit.tasks.registry import task_classes

    rows = [(str(p), p.summary, p.source) for cls in task_classes().values() for p in cls.protocols.values()]
    print_table("protocols", ("protocol", "what", "source"), rows)


def _models(out: Path) -> None:
    from evalkit.lm.models import MODELS, local_path

    rows = []
    for name, model in MODELS.items():
        where = "installed" if local_path(model) else model.install or f"hub: {model.hub[0] if model.hub else '-'}"
        rows.append((name, model.summary, where))
    print_table("models (or a hub id, a folder, a .gguf file)", ("name", "what", "where"), rows)


def _runs(out: Path) -> None:
    """The runs in a folder, the latest last, one line per task, and what to do next."""
    found = sorted((run for file in out.glob("*/run.json") for run in _run(file)), key=lambda run: (run[0], run[1]))
    timed = [_bench(file) for file in sorted(out.glob("*/bench.json"))]
    if not found and timed:
        print("\n".join(timed))
        return
    if not found:
        print(f"no runs in {out} yet; start with: evalkit run --tasks mmlu,gsm8k")
        return
    head = ("run", "status", "model", "task", "measured", "95% interval", "n", "data")
    names = list(dict.fromkeys(name for _, name, _ in found))
    remarks = [f"{len(names)} run{'s' if len(names) > 1 else ''} in {out}", *timed]
    incomplete = dict.fromkeys(name for _, name, row in found if row[0] == "incomplete")
    remarks += [f"{name} is incomplete; run the same command again to resume it" for name in incomplete]
    waiting = [(name, row[2]) for _, name, row in found if row[4] == WAITS]
    remarks += [f"{task} waits for a judge: evalkit judge {out / name} --judge-model NAME" for name, task in waiting]
    remarks.append(f"next: evalkit report {out}/* --out report")
    if len(names) > 1:
        remarks.append(f"  or: evalkit compare {out / names[-2]} {out / names[-1]}")
    rows = [(name if i == 0 or found[i - 1][1] != name else "", *row) for i, (_, name, row) in enumerate(found)]
    print_table(f"runs in {out}", head, rows, *remarks)


def _run(file: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    """(when started, name, cells) of each task of a run."""
    from evalkit.record.read import read_run

    name = file.parent.name
    try:
        run = read_run(file)
        status, spec = run.status, run.model.spec
        rows = [(status, spec, key, *_figure(spec, key, entry)) for key, entry in run.tasks.items()]
        return [(run.started, name, row) for row in rows or [(status, spec, "-", "-", "-", "-", "-")]]
    except EvalkitError as error:
        return [("", name, ("unreadable", "-", first_line(error), "-", "-", "-", "-"))]


def _figure(spec: str, key: str, entry: "TaskEntry") -> tuple[str, str, str, str]:
    """Measured, interval, n and data of one task."""
    from evalkit.record.schema import task_of
    from evalkit.report.published import column_for, published_for
    from evalkit.report.screen import decimal, interval
    from evalkit.report.verdict import measured_figure

    task = task_of(key)
    column = column_for(task, published_for(spec, task, entry.protocol))
    figure = measured_figure(entry, column)
    if figure is None:
        return "-", WAITS if entry.counts.unscored else "-", entry.size, str(entry.data)
    return decimal(figure.value, column), interval(figure, column), entry.size, str(entry.data)


def _bench(file: Path) -> str:
    """One line on a bench record."""
    from evalkit.bench.record import read_bench

    try:
        bench = read_bench(file)
        return f"{file.parent.name}: {bench.model.spec}, {bench.requests_per_second:.3g} requests/s on {bench.device}"
    except EvalkitError as error:
        return f"{file.parent.name}: unreadable: {first_line(error)}"


LISTS: dict[str, Callable[[Path], None]] = {"tasks": _tasks, "protocols": _protocols, "models": _models, "runs": _runs}
