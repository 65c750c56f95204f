"""`evalkit ls`: lists of tasks, protocols, models, published tables and runs."""

import argparse
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cli.options import add_shared
from evalkit.cli.output import Listing, add_json, present
from evalkit.config import RUNS
from evalkit.errors import EvalkitError, first_line
from evalkit.table import Table

if TYPE_CHECKING:
    from evalkit.record.schema import Run, TaskEntry

WAITS = "waits for a judge"
MOST = 40  # names of lm-eval's on the screen


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    what = "list tasks, protocols, models, published tables or runs"
    ls = commands.add_parser(
        "ls",
        help=what,
        description=f"{what.capitalize()}.",
        examples=(
            "evalkit ls tasks",
            "evalkit ls tasks arc",
            "evalkit ls protocols gsm8k",
            "evalkit ls runs --json",
        ),
    )
    ls.add_argument("what", choices=LISTS, help="what to list")
    ls.add_argument("search", nargs="?", metavar="SEARCH", help="only what holds this text, in any case; of tasks, lm-eval's too")
    add_shared(ls, "out")
    add_json(ls, "the list")
    ls.set_defaults(command=_ls)


def _ls(arguments: argparse.Namespace) -> None:
    listing = LISTS[arguments.what](Path(getattr(arguments, "out", RUNS)), (arguments.search or "").lower())
    present(arguments, listing.as_json, listing.show)


def _holds(search: str, record: dict[str, Any]) -> bool:
    """Does a text of the record, or of a list in it, hold the search?"""
    texts = [text for value in record.values() for text in (value if isinstance(value, list | tuple) else [value])]
    return any(search in str(text).lower() for text in texts)


def _tasks(out: Path, search: str) -> Listing:
    from evalkit.tasks.registry import task_classes

    found: list[dict[str, Any]] = [
        {"task": name, "n": cls.official_n, "protocols": list(cls.protocols), "default": cls.default_protocol}
        for name, cls in task_classes().items()
    ]
    found = [each for each in found if _holds(search, each)]
    rows = [
        (each["task"], f"{each['n']:,}", ", ".join(p + (" (default)" if p == each["default"] else "") for p in each["protocols"]))
        for each in found
    ]
    if search:
        lm_eval, notes = _lm_eval_names(search)
        found += lm_eval
        rows += [(each["task"], "-", f"lm-eval's {each['what']}") for each in lm_eval[:MOST]]
    else:
        notes = [
            "any task of lm-eval's: --tasks lm_eval:NAME (docs/lm-eval-tasks.md); evalkit ls tasks SEARCH finds them",
            "a task of your own: --tasks FILE.csv, FILE.toml or FILE.py:NAME (docs/tasks.md)",
        ]
    return Listing("tasks", Table("tasks", ("task", "documents", "protocols"), rows, folds=("protocols",)), found, notes)


def _lm_eval_names(search: str) -> tuple[list[dict[str, Any]], list[str]]:
    """lm-eval's tasks, groups and tags whose names hold the search, the shortest first, and a remark where it is not installed."""
    from evalkit.tasks.lm_eval.index import index
    from evalkit.tasks.lm_eval.options import PREFIX

    try:
        names = index(None)
    except EvalkitError as error:
        return [], [str(error)]
    held = sorted((name for name in names if search in name.lower()), key=lambda name: (len(name), name))
    left_out = f": the shortest {MOST} are above, --json has all" if len(held) > MOST else ""
    found = [{"task": PREFIX + name, "what": names[name].kind} for name in held]
    return found, [f"{len(held):,} of lm-eval's {len(names):,} names hold {search!r}{left_out}"]


def _protocols(out: Path, search: str) -> Listing:
    from evalkit.tasks.registry import task_classes

    protocols = [p for cls in task_classes().values() for p in cls.protocols.values()]
    found = [{"protocol": str(p), "summary": p.summary, "source": p.source} for p in protocols]
    return _texts("protocols", "protocols", found, search, ("protocol", "what", "source"))


def _models(out: Path, search: str) -> Listing:
    from evalkit.lm.models import MODELS, local_path

    found = []
    for name, model in MODELS.items():
        where = "installed" if local_path(model) else model.install or f"hub: {model.hub[0] if model.hub else '-'}"
        found.append({"name": name, "summary": model.summary, "where": where})
    return _texts("models", "models (or a hub id, a folder, a .gguf file)", found, search, ("name", "what", "where"))


def _texts(kind: str, title: str, found: Sequence[dict[str, Any]], search: str, head: Sequence[str]) -> Listing:
    """Records of texts alone, a column for each of their values."""
    held = [each for each in found if _holds(search, each)]
    return Listing(kind, Table(title, head, [tuple(each.values()) for each in held], folds=head[1:]), held)


def _tables(out: Path, search: str) -> Listing:
    from evalkit.report.published import read_table, table_names

    found: list[dict[str, Any]] = []
    rows = []
    for name in table_names():
        try:
            table = read_table(name)
        except EvalkitError as error:
            record: dict[str, Any] = {"table": name, "problem": first_line(error)}
            row = (name, f"unreadable: {first_line(error)}", "-", "-", "-")
        else:
            cells = list(table.cells())
            odd = sum(bool(cell.inconsistent) for _, _, cell in cells)
            sizes = {"models": len(table.rows), "figures": len(cells), "inconsistent": odd}
            record = {"table": name, "title": table.title, **sizes, "source": table.url}
            row = (name, table.title, str(len(table.rows)), f"{len(cells)}" + (f", {odd} inconsistent" if odd else ""), table.url)
        if _holds(search, record):
            found.append(record)
            rows.append(row)
    note = "a table of your own: evalkit reproduce FILE.toml, evalkit report RUN --published FILE.toml (docs/adding-a-published-table.md)"
    head = ("table", "of", "models", "figures", "source")
    return Listing("tables", Table("published tables", head, rows, left=("figures",), folds=("of", "source")), found, [note])


def _runs(out: Path, search: str) -> Listing:
    """The runs in a folder, the latest last, one line per task, and what to do next."""
    from evalkit.codec import encode

    under_way = _live(out)
    live = {name: line for name, line in under_way.items() if search in name.lower()}
    read = {file.parent.name: _read(file) for file in sorted(out.glob("*/run.json")) if file.parent.name not in under_way}
    runs = {name: run for name, run in read.items() if not isinstance(run, EvalkitError)}
    names = sorted(read, key=lambda name: (runs[name].started if name in runs else "", name))
    rows_of = {name: _rows(read[name]) for name in names}
    names = [name for name in names if search in name.lower() or any(search in cell.lower() for row in rows_of[name] for cell in row)]
    runs = {name: run for name, run in runs.items() if name in names}
    records = [
        {"folder": str(out / name), **(encode(runs[name]) if name in runs else {"problem": first_line(read[name])})}  # type: ignore[arg-type]
        for name in names
    ]
    records += [{"folder": str(out / name), "status": "running"} for name in live]
    timed = [line for file in sorted(out.glob("*/bench.json")) if search in (line := _bench(file)).lower()]
    if not names and not live:
        none = f"no runs in {out} yet; start with: evalkit run --tasks mmlu,gsm8k"
        if read or under_way:
            none = f"no run in {out} holds {search!r}"
        return Listing("runs", Table("", (), ()), [], timed or [none])
    shown = len(names) + len(live)
    remarks = [f"{shown} run{'s' if shown > 1 else ''} in {out}", *timed, *live.values()]
    remarks += [
        f"{name} is incomplete; run the same command again to resume it"
        for name in names
        if name in runs and not runs[name].is_complete and not _is_whole_shard(runs[name])
    ]
    remarks += _mergeable(out, [(name, runs[name]) for name in names if name in runs])
    rows = [(name if i == 0 else "", *row) for name in names for i, row in enumerate(rows_of[name])]
    rows += [(name, "running", *"------") for name in live]
    waiting = [
        (name, key)
        for name, run in runs.items()
        for key, entry in run.tasks.items()
        if not entry.metrics and entry.counts.unscored and not run.shard
    ]
    remarks += [f"{key} waits for a judge: evalkit judge {out / name} --judge-model NAME" for name, key in waiting]
    if runs:
        remarks.append(f"next: evalkit report {out}/* --out report")
    if pair := _comparable([(name, runs[name]) for name in names if name in runs]):
        base, cand, tasks = pair
        remarks.append(f"  or: evalkit compare {out / base} {out / cand}{tasks}")
    head = ("run", "status", "model", "task", "measured", "95% interval", "n", "data")
    table = Table(f"runs in {out}", head, rows, left=("status", "model", "95% interval", "data"), folds=("task",))
    return Listing("runs", table, records, remarks)


def _live(out: Path) -> dict[str, str]:
    """A line on each run that is under way, by name."""
    from evalkit.runner.journal import Journal
    from evalkit.runner.lock import holder

    found = {}
    for file in sorted(out.glob("*/journal.lock")):
        if pid := holder(file):
            name = file.parent.name
            try:
                journal = Journal(file.with_suffix(".sqlite"), read_only=True)
                found[name] = f"{name} is running (pid {pid}), {len(journal):,} answers so far"
                journal.close()
            except EvalkitError:  # it has only just begun
                found[name] = f"{name} is running (pid {pid})"
    return found


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
    status, spec = (f"shard {run.shard}" if run.shard and run.shard.finished else run.status), run.model.spec
    return [(status, spec, key, *_figure(spec, key, entry)) for key, entry in run.tasks.items()] or [(status, spec, *"-----")]


def _is_whole_shard(run: "Run") -> bool:
    return run.shard is not None and run.shard.finished


def _mergeable(out: Path, runs: Sequence[tuple[str, "Run"]]) -> list[str]:
    """The command that merges the shards of each run of which all are there, or how many there are."""
    found: dict[tuple[str, int, str], dict[int, str]] = {}
    for name, run in runs:
        if run.shard and run.shard.finished:
            found.setdefault((run.shard.plan_sha256, run.shard.of, run.model.fingerprint), {}).setdefault(run.shard.index, name)
    return [
        f"shards: evalkit merge {' '.join(str(out / names[index]) for index in sorted(names))}"
        if len(names) == of
        else f"shards: {len(names)} of {of} are finished here ({', '.join(names.values())}); evalkit merge takes all {of}"
        for (_, of, _), names in found.items()
    ]


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


LISTS: dict[str, Callable[[Path, str], Listing]] = {
    "tasks": _tasks,
    "protocols": _protocols,
    "models": _models,
    "tables": _tables,
    "runs": _runs,
}
