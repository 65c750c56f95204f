"""The quality table: every cell of a published table beside what runs measured, with protocol, data, n, interval and verdict."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from evalkit.record.schema import task_of
from evalkit.report.document import Block, Grid, Notes, Pair, Section
from evalkit.report.inputs import Inputs
from evalkit.report.lines import Line, best, lines, short, under
from evalkit.report.plots.dots import DotPanel, DotRow, dot_plot
from evalkit.report.plots.plot import Plot
from evalkit.report.published import PublishedTable
from evalkit.report.sections.protocols import protocol_plots, protocols
from evalkit.report.sections.subjects import subject_plot
from evalkit.report.story import INCONSISTENT, causes_of
from evalkit.report.verdict import Verdict

FIELDS = (
    *("model", "task", "published", "measured", "ci95_low", "ci95_high", "difference", "verdict", "reason"),
    *("protocol", "published_protocol", "n", "n_total", "data", "data_sha256", "fingerprint", "run", "origin", "note", "url", "findings"),
)
HEAD = ("Model", "Task", "Published", "Measured (95% interval)", "Difference", "Verdict", "Measured with")
INTERVALS = (
    "Intervals are 95%, over documents. Against a published figure they are unpaired, because the published run's answers are unknown."
)


def section(inputs: Inputs) -> Section | None:
    """The table as published, every figure, the sources, and the plots; None without a published table."""
    if (table := inputs.table) is None:
        return None
    found = lines(table, inputs.runs)
    measured = [line for line in found if line.run]
    missing = [line for line in found if not line.run]
    blocks: list[Block] = []
    if measured:
        blocks.append("A cell reads published, or published → measured. A star marks a measured figure that is not comparable.")
    blocks.append(_grid(table, found))
    if measured:
        blocks += [plot for plot in (score_plot(table.title, found),) if plot]
        blocks += [INTERVALS, Grid("measured", "Every measured figure", "llrrrpp", HEAD, [row(line) for line in measured], keys=2)]
    blocks += protocol_plots(table, found)
    blocks += [plot for plot in (subject_plot(inputs.runs),) if plot]
    if missing:
        head = ("Model", "Task", "Published", "Verdict", "Published under")
        rows = [(line.model, line.task, line.published, line.verdict, under(line.task, line.protocol)) for line in missing]
        blocks.append(Grid("not-measured", "Published and not measured", "llrpl", head, rows, keys=2, folded=bool(measured)))
    blocks += _notes(table, found)
    verdicts = [line.verdict for line in best(found).values() if line.cell]
    return Section("quality", "Quality", blocks, verdicts, {"quality": to_csv(found, inputs)})


def score_plot(title: str, found: Sequence[Line]) -> Plot | None:
    """A panel for each benchmark of the table that was measured, a row for each model with a figure: its most informative one."""
    shown = [line for line in best(found).values() if line.column]
    panels = []
    for column in dict.fromkeys(line.column for line in shown if line.column and line.measured):
        here = [line for line in shown if line.column == column]
        rows = [
            DotRow(short(each.model), [each.cell.value] if each.cell else [], [(each.measured, each.comparable)] if each.measured else [])
            for each in here
        ]
        panels.append(DotPanel(column.title, rows, column.maximum, column.decimals))
    alt = f"{title}: " + "; ".join(text for line in shown if (text := _words(line)))
    return dot_plot("scores", "Measured scores with 95% intervals, and the published ones", alt, panels)


def _words(line: Line) -> str:
    published = f"published {line.published}, " if line.cell else ""
    return f"{line.model} {line.task} {published}measured {line.figure}" if line.measured else ""


def to_csv(found: Sequence[Line], inputs: Inputs) -> str:
    """One line per figure, with everything that belongs to it."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    for line in found:
        writer.writerow(_record(line, inputs))
    return out.getvalue()


def _record(line: Line, inputs: Inputs) -> dict[str, Any]:
    found = line.verdict
    record: dict[str, Any] = {"model": line.model, "task": line.task, "verdict": found.word, "reason": found.reason}
    if cell := line.cell:
        record |= {"published": cell.value, "published_protocol": cell.protocol, "origin": cell.origin, "note": cell.note, "url": cell.url}
    if line.entry and line.run:
        entry = line.entry
        record |= {"protocol": entry.protocol, "n": entry.n, "n_total": entry.n_total, "run": line.run.name}
        record |= {"data": entry.data.source, "data_sha256": entry.data.sha256, "fingerprint": line.run.model.fingerprint}
    if figure := line.measured:
        record |= {"measured": round(figure.value, 4), "ci95_low": round(figure.low, 4), "ci95_high": round(figure.high, 4), "n": figure.n}
        if line.cell:
            record["difference"] = round(figure.value - line.cell.value, 4)
    if inputs.table and (causes := causes_of(line, inputs.table.name, inputs.findings)):
        record["findings"] = "; ".join(f"{each.cause}: {each.effect}; {each.conclusion}" for each in causes)
    return record


def _grid(table: PublishedTable, found: Sequence[Line]) -> Grid:
    chosen = best(found)
    rows: list[tuple[str | Pair, ...]] = []
    for model in dict.fromkeys(line.model for line in found if line.column and not _is_file(line)):
        cells = [chosen.get((model, column.key)) for column in table.columns]
        rows.append((model, *(_pair(line) if line else Pair("-") for line in cells)))
    head = ("Model", *(c.title for c in table.columns))
    return Grid("as-published", f"As published: {table.source}", "l" + "r" * len(table.columns), head, rows)


def _is_file(line: Line) -> bool:
    """Is it of a file of answers, and no model's row?"""
    return line.cell is None and line.run is not None and line.run.model.engine == "file"


def _pair(line: Line) -> Pair:
    if line.measured is None:
        return Pair(line.published)
    return Pair(line.published, line.figure, line.verdict.word in ("reproduced", "differs", INCONSISTENT, "nothing published"))


def row(line: Line) -> tuple[str | Verdict, ...]:
    """A measured figure and what it depends on, as HEAD says."""
    return (line.model, line.task, line.published, line.figure_and_interval, line.difference, line.verdict, line.how)


def _notes(table: PublishedTable, found: Sequence[Line]) -> Iterator[Block]:
    sources = [
        f"{line.model}, {line.task}: {line.cell.cited}" + "".join(f"; {text}" for text in (line.cell.note, line.cell.doubt) if text)
        for line in found
        if line.cell
    ]
    yield from run_notes(found)
    yield Notes("Where the published figures come from", list(dict.fromkeys(sources)), folded=True)
    yield from protocols(column.task for column in table.columns)
    if table.anchors:
        titles = {column.key: column.title for column in table.columns}
        anchors = [(a.model, titles[a.task], str(a.value), a.protocol, a.source, a.note or "-") for a in table.anchors]
        head = ("Model", "Task", "Figure", "Protocol", "Source", "Note")
        yield Grid("by-others", "What others published for these models", "llrlll", head, anchors, keys=2, folded=True)


def run_notes(found: Sequence[Line]) -> Iterator[Block]:
    """The models that were measured, and what happened to their answers."""
    if runs := list(dict.fromkeys(_provenance(line) for line in found if line.run)):
        yield Notes("Models measured", runs)
    if remarks := list(dict.fromkeys(text for line in found for text in _remarks(line))):
        yield Notes("Remarks on these runs", remarks)


def _provenance(line: Line) -> str:
    assert line.run
    model = line.run.model
    weights = f"weights in {model.weights}, computed with: " if model.weights else ""
    return f"run {line.run.name}: {model.spec}, {weights}{model.how}, fingerprint {model.fingerprint[:19]}"


def _remarks(line: Line) -> Iterator[str]:
    if line.run is None or line.entry is None:
        return
    name = f"run {line.run.name}, {task_of(line.task.partition(':')[0])}@{line.entry.protocol}"  # measured, whatever is published
    n, counts = line.entry.n, line.entry.counts
    yield from (f"{name}: {remark}" for remark in counts.remarks(n))
    words = (
        (len(line.entry.in_shots), "documents also stand among the worked examples of their own prompt"),
        (counts.unscored, "documents are not scored"),
    )
    yield from (f"{name}: {count:,} of {n:,} {text}" for count, text in words if count)
