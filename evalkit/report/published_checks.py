"""What a published table must be: cells take what they share with their row, column and table, and every value is checked with its line.

Raises EvalkitError that names file, line and key.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from evalkit.codec import Misfit, TomlFile, shown
from evalkit.errors import unknown
from evalkit.lm.models import MODELS
from evalkit.tasks import JudgedTask, SuiteTask
from evalkit.tasks.registry import task_classes

if TYPE_CHECKING:
    from evalkit.report.checkpoint import Checkpoint
    from evalkit.report.published import Column, PublishedFigure, PublishedTable, Row

FIX = "correct the table"
# what a cell does not say itself, its row may; then its column, then the table
FROM_ROW = ("protocol", "judges", "url", "place", "origin", "doubt")
FROM_COLUMN = (*FROM_ROW, "checkpoint", "samples", "not_here")
FROM_TABLE = FROM_ROW
NUMBER = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,10})?")
HUB = re.compile(r"[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
PRECISION = re.compile(r"float(8\w*|16|32|64)|bfloat16|[IT]?Q\d\w*|(MX|NV)FP\d|(int\d|GPTQ|AWQ)[\w-]*")


def inherit(file: TomlFile) -> None:
    """Give each cell what its row, its column or the table says for it, and the checkpoint that it names by the table's name for it."""
    columns = {_key(column): column for column in _tables(file.values.get("column"))}
    for index, row in enumerate(_tables(file.values.get("row"))):
        cells, checkpoints = row.get("cell"), row.get("checkpoint")
        for name, cell in cells.items() if isinstance(cells, dict) else ():
            keys = ("row", index, "cell", name)
            if not isinstance(cell, dict):
                continue  # refused when it is decoded
            if name not in columns:
                raise _wrong(file, keys, f"is of no column; known: {', '.join(columns)}")
            for source, names in ((row, FROM_ROW), (columns[name], FROM_COLUMN), (file.values, FROM_TABLE)):
                cell |= {each: source[each] for each in names if each in source and each not in cell}
            if isinstance(checkpoints, dict):
                cell["checkpoint"] = _checkpoint(file, keys, cell.get("checkpoint"), checkpoints)


def _checkpoint(file: TomlFile, keys: Sequence[str | int], named: object, checkpoints: Mapping[str, Any]) -> object:
    if named is None and len(checkpoints) == 1:
        return next(iter(checkpoints.values()))
    if named is None or (isinstance(named, str) and named not in checkpoints):
        found = "is missing" if named is None else f"is {shown(named)}"
        raise _wrong(file, (*keys, "checkpoint"), f"{found}; say which of the row's it is of: {', '.join(checkpoints)}")
    return checkpoints[named] if isinstance(named, str) else named


def _tables(value: object) -> list[dict[str, Any]]:
    return value if isinstance(value, list) and all(isinstance(each, dict) for each in value) else []


def _key(column: Mapping[str, Any]) -> str:
    """As Column.key."""
    group, protocol = (f"{sign}{column[name]}" if column.get(name) else "" for sign, name in ((":", "group"), ("@", "protocol")))
    return f"{column.get('task')}{group}{protocol}"


def check(table: "PublishedTable", file: TomlFile) -> "PublishedTable":
    """Check what the types do not say. Cells that cannot be right as printed get the reason in `inconsistent`."""
    for keys, what in chain(_unprintable(file.values), _problems(table)):
        raise _wrong(file, keys, what)
    rows = []
    for row in table.rows:
        cells = {name: _with_reason(cell, table.by_key[name]) for name, cell in row.cells.items()}
        rows.append(replace(row, cells=cells))
    return replace(table, rows=tuple(rows))


def _wrong(file: TomlFile, keys: Sequence[str | int], what: str) -> Exception:
    return Misfit(what, *reversed(keys)).in_file(file, FIX)


Problem = tuple[tuple[str | int, ...], str]


def _unprintable(value: object, keys: tuple[str | int, ...] = ()) -> Iterator[Problem]:
    """Texts with line breaks or control characters, which no page or terminal shows as they are meant."""
    if isinstance(value, str) and not value.isprintable():
        yield keys, f"is {shown(value)}; leave line breaks and control characters out"
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield from _unprintable(item, (*keys, key))


def _problems(table: "PublishedTable") -> Iterator[Problem]:
    yield from _url(("url",), table.url, needed=True)
    yield from _twice("column", [column.key for column in table.columns], "task")
    yield from _twice("row", [row.model for row in table.rows], "model")
    for i, column in enumerate(table.columns):
        yield from _of_column(("column", i), column)
    for i, row in enumerate(table.rows):
        if not row.model.strip():
            yield ("row", i, "model"), f"is {shown(row.model)}; give the model's name"
        yield from _of_row(("row", i), row, table)
    models = {row.model for row in table.rows}
    for i, anchor in enumerate(table.anchors):
        if anchor.model not in models or anchor.task not in table.by_key:
            yield ("anchor", i), f"is of {shown(anchor.model)} and {shown(anchor.task)}, and there is no such row or column"
        yield from _url(("anchor", i, "url"), anchor.url, needed=True)


def _twice(kind: str, names: Sequence[str], named_by: str) -> Iterator[Problem]:
    seen = set[str]()
    for i, name in enumerate(names):
        if name in seen:
            yield (kind, i, named_by), f"is {shown(name)}, which is there twice; keep one of each"
        seen.add(name)


def _of_column(keys: tuple[str | int, ...], column: "Column") -> Iterator[Problem]:
    if not 0 <= column.decimals <= 10:
        yield (*keys, "decimals"), f"is {column.decimals}; give 0 to 10"
    for name, value in (("scale", column.scale), ("maximum", column.maximum)):
        if value <= 0:
            yield (*keys, name), f"is {value:g}; give more than 0"
    task = task_classes().get(column.task)
    if task is not None and issubclass(task, JudgedTask) and not column.metric and column.scale * task.scale[1] != column.maximum:
        best = f"the best rating, {task.scale[1]:g}, is then {column.scale * task.scale[1]:g}, not the maximum, {column.maximum:g}"
        yield (*keys, "scale"), f"is {column.scale:g}: {best}; for ratings as they are, scale = 1 and maximum = {task.scale[1]:g}"
    yield from _url((*keys, "url"), column.url)
    if column.task not in task_classes() and not column.not_here:
        yield (*keys, "task"), f"is {shown(column.task)}, {unknown('task', column.task, task_classes())}; or say not_here = true"


def _of_row(keys: tuple[str | int, ...], row: "Row", table: "PublishedTable") -> Iterator[Problem]:
    yield from _url((*keys, "url"), row.url)
    for name, checkpoint in row.checkpoints.items():
        yield from _of_checkpoint((*keys, "checkpoint", name), checkpoint)
    for name, cell in row.cells.items():
        yield from _of_cell((*keys, "cell", name), cell, table.by_key[name])


def _of_checkpoint(keys: tuple[str | int, ...], checkpoint: "Checkpoint") -> Iterator[Problem]:
    if not HUB.fullmatch(checkpoint.hub):
        yield (*keys, "hub"), f"is {shown(checkpoint.hub)}; give the hub's id, as in Qwen/Qwen1.5-7B"
    if checkpoint.revision and not COMMIT.fullmatch(checkpoint.revision):
        yield (*keys, "revision"), f"is {shown(checkpoint.revision)}; give the commit, 40 hexadecimal digits: branches and tags move"
    held: Iterable[tuple[tuple[str | int, ...], str]] = [((*keys, "precision"), checkpoint.precision)]
    held = [*held, *(((*keys, "stand_in", i, "precision"), each.precision) for i, each in enumerate(checkpoint.stand_ins))]
    for where, precision in held:
        if precision and not PRECISION.fullmatch(precision):
            yield where, f"is {shown(precision)}; give it as the files do: bfloat16, float16, float32, Q4_K_M .."
    for i, stand_in in enumerate(checkpoint.stand_ins):
        if stand_in.name not in MODELS and "/" not in stand_in.name and not stand_in.name.endswith(".gguf"):
            yield (*keys, "stand_in", i, "name"), f"is {shown(stand_in.name)}, {unknown('model', stand_in.name, MODELS)}"


def _of_cell(keys: tuple[str | int, ...], cell: "PublishedFigure", column: "Column") -> Iterator[Problem]:
    yield from _url((*keys, "url"), cell.url, needed=True)
    prints = [((*keys, "printed"), cell.printed), *(((*keys, "also", i, "printed"), each.printed) for i, each in enumerate(cell.also))]
    for where, printed in prints:
        if not NUMBER.fullmatch(printed):
            yield where, f'is {shown(printed)}; give the digits as they are printed, with a decimal point, as in printed = "62.50"'
        elif not (cell.inconsistent or cell.also or 0 <= float(printed) <= column.maximum):
            yield (
                where,
                f"is {printed}, outside 0 to {column.maximum:g}; if it is printed so, say why it cannot be right: inconsistent = ..",
            )
    for i, each in enumerate(cell.also):
        yield from _url((*keys, "also", i, "url"), each.url)
        if each.printed == cell.printed:
            yield (*keys, "also", i, "printed"), f"is {each.printed}, as the cell's own; `also` is for prints that differ"
    if cell.samples < 1:
        yield (*keys, "samples"), f"is {cell.samples}; give how many answers a document it is the mean of"
    task = task_classes().get(column.task)
    if task is None:
        return
    if cell.protocol and (cell.protocol in task.protocols) == cell.not_here:
        listed = unknown(f"protocol of {column.task}", cell.protocol, task.protocols)
        says = "is a protocol of evalkit: leave not_here out" if cell.not_here else f'{listed}; or give "" or not_here = true'
        yield (*keys, "protocol"), f"is {shown(cell.protocol)}, {says}"
    if issubclass(task, JudgedTask) and cell.protocol and not cell.judges:
        yield (*keys, "judges"), 'is missing: who judged? give the names that count, or ["unpublished"]'


def _url(keys: tuple[str | int, ...], url: str, needed: bool = False) -> Iterator[Problem]:
    if url or needed:
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and "." in (parts.hostname or "") and url.isprintable() and " " not in url
        except ValueError:  # an address in brackets that is none
            good = False
        if not good:
            yield keys, f"is {shown(url)}; give the address of the source, as in https://arxiv.org/abs/2409.12186"


def _with_reason(cell: "PublishedFigure", column: "Column") -> "PublishedFigure":
    """The cell, with why it can't be right as printed if it can't."""
    reason = cell.inconsistent or _prints_differ(cell) or off_grid(cell, column)
    return replace(cell, inconsistent=reason)


def _prints_differ(cell: "PublishedFigure") -> str:
    if not cell.also:
        return ""
    prints = [(cell.printed, cell.place), *((each.printed, each.place or each.url) for each in cell.also)]
    return "printed as " + " and as ".join(f"{printed} in {place}" if place else printed for printed, place in prints)


def off_grid(cell: "PublishedFigure", column: "Column") -> str:
    """Why no number of right answers gives the figure, rounded or cut off; "" if one does, or if it need not be a share of documents."""
    task = task_classes().get(column.task)
    protocol = task.protocols.get(cell.protocol) if task else None
    if task is None or protocol is None or column.group or issubclass(task, SuiteTask | JudgedTask):
        return ""
    if protocol.averaging != "micro" or column.metric not in ("", protocol.headline):
        return ""
    n = task.official_n * cell.samples
    below = math.floor(cell.value / column.scale * n + 1e-9)
    near = {k: column.scale * k / n for k in (below, below + 1)}
    unit = 2 * cell.rounding
    if any(abs(figure - cell.value) <= cell.rounding + 1e-9 or 0 <= figure - cell.value < unit - 1e-9 for figure in near.values()):
        return ""
    gives = ", ".join(f"{k:,} give {figure:.{cell.decimals + 2}f}" for k, figure in near.items())
    what = "answers" if cell.samples > 1 else "documents"
    meant = f"; is it {100 * cell.value:g} percent, written as a fraction of 1?" if column.scale == 100 and 0 < cell.value <= 1 else ""
    return f"no number of {n:,} {what} gives {cell.printed}: {gives}{meant}"
