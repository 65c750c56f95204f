"""`evalkit ls`: lists of tasks, protocols, models, published tables and runs."""

import argparse
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cli.options import add_shared
from evalkit.cli.table import print_lines, print_table
from evalkit.config import RUNS
from evalkit.errors import EvalkitError, first_line

if TYPE_CHECKING:
    from evalkit.record.schema import Run, TaskEntry

WAITS = "waits for a judge"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    what = "list tasks, protocols, models, published tables or runs"
    ls = commands.add_parser("ls", help=what, description=f"{what.capitalize()}.")
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
    print_table(
        "tasks",
        ("task", "documents", "protocols"),
        rows,
        "any task of lm-eval's: --tasks lm_eval:NAME (docs/lm-eval-tasks.md)",
        "a task of your own: --tasks FILE.csv, FILE.toml or FILE.py:NAME (docs/tasks.md)",
    )


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


def _tables(out: Path) -> None:
    from evalkit.report.published import read_table, table_names

    rows = []
    for name in table_names():
        try:
            table = read_table(name)
        except EvalkitError as error:
            rows.append((name, f"unreadable: {first_line(error)}", "-", "-", "-"))
            continue
        cells = list(table.cells())
        odd = sum(bool(cell.inconsistent) for _, _, cell in cells)
        rows.append((name, table.title, str(len(table.rows)), f"{len(cells)}" + (f", {odd} inconsistent" if odd else ""), table.url))
    remark = "a table of your own: evalkit reproduce FILE.toml, evalkit report RUN --published FILE.toml (docs/adding-a-published-table.md)"
    print_table("published tables", ("table", "of", "models", "figures", "source"), rows, remark)


def _runs(out: Path) -> None:
    """The runs in a folder, the latest last, one line per task, and what to do next."""
    read = {file.parent.name: _read(file) for file in sorted(out.glob("*/run.json"))}
    runs = {name: run for name, run in read.items() if not isinstance(run, EvalkitError)}
    timed = [_bench(file) for file in sorted(out.glob("*/bench.json"))]
    if not read and timed:
        print_lines(*timed)
        return
    if not read:
        print_lines(f"no runs in {out} yet; start with: evalkit run --tasks mmlu,gsm8k")
        return
    names = sorted(read, key=lambda name: (runs[name].started if name in runs else "", name))
    remarks = [f"{len(names)} run{'s' if len(names) > 1 else ''} in {out}", *timed]
    remarks += [
        f"{name} is incomplete; run the same command again to resume it" for name in names if name in runs and not runs[name].is_complete
    ]
    rows = [(name if i == 0 else "", *row) for name in names for i, row in enumerate(_rows(read[name]))]
    waiting = [(name, key) for name, run in runs.items() for key, entry in run.tasks.items() if not entry.metrics and entry.counts.unscored]
    remarks += [f"{key} waits for a judge: evalkit judge {out / name} --judge-model NAME" for name, key in waiting]
    if runs:
        remarks.append(f"next: evalkit report {out}/* --out report")
    if pair := _comparable([(name, runs[name]) for name in names if name in runs]):
        base, cand, tasks = pair
        remarks.append(f"  or: evalkit compare {out / base} {out / cand}{tasks}")
    head = ("run", "status", "model", "task", "measured", "95% interval", "n", "data")
    print_table(f"runs in {out}", head, rows, *remarks)


def _read(file: Path) -> "Run | EvalkitError":
    from evalkit.record.read import read_run

    try:
        return read_run(file)
    except EvalkitError as error:
        return error


def _rows(run: "Run | EvalkitError") -> list[tuple[str, ...]]:
    """The cells of each task of a run, or of what is wrong with it."""
    if isinstance(run, EvalkitError):
        return [("unreadable", "-", first_line(run), "-", "-", "-", "-")]
    status, spec = run.status, run.model.spec
    return [(status, spec, key, *_figure(spec, key, entry)) for key, entry in run.tasks.items()] or [(status, spec, *"-----")]


def _comparable(runs: Sequence[tuple[str, "Run"]]) -> tuple[str, str, str] | None:
    """The latest two runs that can be compared: complete, with figures of the same task, protocol and documents; and their --tasks."""
    known = [
        (name, {key: (e.protocol_sha256, e.headline, e.n, e.data.sha256) for key, e in run.tasks.items() if e.figure})
        for name, run in runs
        if run.is_complete
    ]
    for (cand, after), (base, before) in combinations(reversed(known), 2):
        if shared := [key for key, entry in before.items() if after.get(key) == entry]:
            all_shared = len(shared) == len(before) == len(after)
            return base, cand, "" if all_shared else f" --tasks {','.join(shared)}"
    return None


def _figure(spec: str, key: str, entry: "TaskEntry") -> tuple[str, str, str, str]:
    """Measured, interval, n and data of one task."""
    from evalkit.record.schema import task_of
    from evalkit.report.matches import column_for, published_for
    from evalkit.report.screen import decimal, interval
    from evalkit.report.verdict import measured_figure

    task = task_of(key)
    column = column_for(task, published_for(spec, task, entry.protocol))
    figure = measured_figure(entry, column)
    if figure is None:
        return "-", WAITS if entry.counts.unscored else "-", entry.size, str(entry.data)
    own = entry.in_own_unit(entry.headline)
    return decimal(figure.value, column, own), interval(figure, column, own), entry.size, str(entry.data)


def _bench(file: Path) -> str:
    """One line on a bench record."""
    from evalkit.bench.record import read_bench

    try:
        bench = read_bench(file)
        return f"{file.parent.name}: {bench.model.spec}, {bench.requests_per_second:.3g} requests/s on {bench.device}"
    except EvalkitError as error:
        return f"{file.parent.name}: unreadable: {first_line(error)}"


LISTS: dict[str, Callable[[Path], None]] = {"tasks": _tasks, "protocols": _protocols, "models": _models, "tables": _tables, "runs": _runs}
