"""The quality table: every cell of a published table beside what runs measured, with protocol, data, n, interval and verdict."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from evalkit.report.document import Block, Grid, Notes, Pair, Section
from evalkit.report.inputs import Inputs
from evalkit.report.lines import Line, best, lines
from evalkit.report.plots.scores import score_plot
from evalkit.report.plots.subjects import subject_plot
from evalkit.report.published import PublishedTable
from evalkit.report.verdict import Verdict
from evalkit.tasks.registry import resolve, task_classes

FIELDS = (
    *("model", "task", "published", "measured", "ci95_low", "ci95_high", "difference", "verdict", "reason"),
    *("protocol", "published_protocol", "n", "n_total", "data", "data_sha256", "fingerprint", "run", "origin", "note"),
)
HEAD = ("Model", "Task", "Published", "Measured", "95% interval", "Difference", "Verdict", "Protocol", "n", "Data", "Weights")


def section(inputs: Inputs) -> Section:
    """The table as published, every figure, the sources, and the plots."""
    table = inputs.table
    found = lines(table, inputs.runs)
    blocks: list[Block] = [
        "A cell reads published, or published → measured. A star marks a measured figure that is not comparable; its verdict says why.",
        _grid(table, found),
    ]
    blocks += [plot for plot in (score_plot(table, found),) if plot]
    blocks.append(
        "Intervals are 95%, over documents. Against a published figure they are unpaired, because the published run's answers are unknown."
    )
    blocks.append(Grid("Every figure", "llrrrrplrll", HEAD, [_row(line) for line in found]))
    blocks += [plot for plot in (subject_plot(inputs.runs),) if plot]
    blocks += _notes(table, found)
    return Section("quality", "Quality", blocks, [line.verdict for line in found if line.cell], {"quality": to_csv(found)})


def to_csv(found: Sequence[Line]) -> str:
    """One line per figure, with everything that belongs to it."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    for line in found:
        writer.writerow(_record(line))
    return out.getvalue()


def _record(line: Line) -> dict[str, Any]:
    found = line.verdict
    record: dict[str, Any] = {"model": line.model, "task": line.task, "verdict": found.word, "reason": found.reason}
    if cell := line.cell:
        record |= {"published": cell.value, "published_protocol": cell.protocol, "origin": cell.origin, "note": cell.note}
    if line.entry and line.run:
        entry = line.entry
        record |= {"protocol": entry.protocol, "n": entry.n, "n_total": entry.n_total, "run": line.run.name}
        record |= {"data": entry.data.source, "data_sha256": entry.data.sha256, "fingerprint": line.run.model.fingerprint}
    if figure := line.measured:
        record |= {"measured": round(figure.value, 4), "ci95_low": round(figure.low, 4), "ci95_high": round(figure.high, 4), "n": figure.n}
        if line.cell:
            record["difference"] = round(figure.value - line.cell.value, 4)
    return record


def _grid(table: PublishedTable, found: Sequence[Line]) -> Grid:
    chosen = best(found)
    rows: list[tuple[str | Pair, ...]] = []
    for model in dict.fromkeys(line.model for line in found):
        cells = [chosen.get((model, column.key)) for column in table.columns]
        rows.append((model, *(_pair(line) if line else Pair("-") for line in cells)))
    return Grid(f"As published: {table.source}", "l" + "r" * len(table.columns), ("Model", *(c.title for c in table.columns)), rows)


def _pair(line: Line) -> Pair:
    if line.measured is None:
        return Pair(line.published)
    return Pair(line.published, line.decimal(line.measured.value), line.verdict.word in ("reproduced", "differs", "nothing published"))


def _row(line: Line) -> tuple[str | Verdict, ...]:
    entry, figure = line.entry, line.measured
    if entry is None or line.run is None:
        protocol = f"({_under(line.task, line.cell.protocol)})" if line.cell else "-"
        return (line.model, line.task, line.published, "-", "-", "-", line.verdict, protocol, "-", "-", "-")
    interval = f"{line.decimal(figure.low)} to {line.decimal(figure.high)}" if figure else "-"
    difference = line.decimal(figure.value - line.cell.value, "+") if figure and line.cell else "-"
    weights = line.run.model.fingerprint.removeprefix("sha256:")[:8]
    measured = line.decimal(figure.value) if figure else "-"
    protocol = _under(line.task, entry.protocol)
    return (
        line.model,
        line.task,
        line.published,
        measured,
        interval,
        difference,
        line.verdict,
        protocol,
        entry.size,
        str(entry.data),
        weights,
    )


def _under(task: str, protocol: str) -> str:
    return f"{task}@{protocol}" if protocol else "unpublished"


def _notes(table: PublishedTable, found: Sequence[Line]) -> Iterator[Block]:
    sources = [
        f"{line.model}, {line.task}: {line.cell.cited}" + "".join(f"; {text}" for text in (line.cell.note, line.cell.doubt) if text)
        for line in found
        if line.cell
    ]
    yield Notes("Where the published figures come from", list(dict.fromkeys(sources)), folded=True)
    if runs := list(dict.fromkeys(_provenance(line) for line in found if line.run)):
        yield Notes("Models measured", runs)
    if remarks := list(dict.fromkeys(text for line in found for text in _remarks(line))):
        yield Notes("Remarks on these runs", remarks)
    if rows := _protocols(table):
        yield Grid("The protocols of these tasks", "lppp", ("Protocol", "Summary", "Remarks", "Source"), rows, folded=True)
    if table.anchors:
        titles = {column.key: column.title for column in table.columns}
        anchors = [(a.model, titles[a.task], str(a.value), a.protocol, a.source, a.note or "-") for a in table.anchors]
        anchor_head = ("Model", "Task", "Figure", "Protocol", "Source", "Note")
        yield Grid("What others published for these models", "llrlll", anchor_head, anchors, folded=True)


def _provenance(line: Line) -> str:
    assert line.run
    model = line.run.model
    return f"run {line.run.name}: {model.spec}, {model.how}, fingerprint {model.fingerprint[:19]}"


def _remarks(line: Line) -> Iterator[str]:
    if line.run is None or line.entry is None:
        return
    name = f"run {line.run.name}, {line.task}"
    counts = line.entry.counts
    words = (
        (counts.extraction_failed, "answers had nothing to extract; they count as wrong"),
        (counts.empty, "documents have an empty answer"),
        (counts.unanswered, "documents were refused by the server's content filter; they count as wrong"),
        (len(line.entry.in_shots), "documents also stand among the worked examples of their own prompt"),
        (counts.stopped_by_length, "answers reached the length limit"),
        (counts.unscored, "documents are not scored"),
    )
    yield from (f"{name}: {count:,} of {line.entry.n:,} {text}" for count, text in words if count)


def _protocols(table: PublishedTable) -> list[tuple[str, ...]]:
    """Every protocol of the table's tasks; for HumanEval, how many canonical solutions its cut breaks."""
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(column.task for column in table.columns):
        if (cls := task_classes().get(name)) is None:
            continue
        for protocol in cls.protocols.values():
            remark = resolve(str(protocol)).remark()
            if remark is None and "canonical_passing" in protocol.settings:
                remark = f"breaks none of the {cls.official_n} canonical solutions"
            rows.append((str(protocol), protocol.summary, remark or "-", protocol.source))
    return rows
