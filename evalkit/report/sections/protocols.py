"""What a protocol does to a score: one model's figures on one benchmark under several, and the list of them all."""

from collections.abc import Iterable, Iterator, Sequence

from evalkit.record.schema import task_of
from evalkit.report.document import Block, Grid
from evalkit.report.lines import Line, short
from evalkit.report.plots.dots import DotPanel, DotRow, dot_plot
from evalkit.report.plots.plot import Plot, file_name
from evalkit.report.published import PublishedTable
from evalkit.tasks.registry import resolve, task_classes

WIDE = 0.05  # of the scale: published figures that differ by less show nothing of their protocols
UNKNOWN = "unknown protocol"


def protocol_plots(table: PublishedTable, found: Sequence[Line]) -> Iterator[Plot]:
    """A plot for each model with figures under several protocols, a panel for each benchmark.

    One without a measured figure has a panel only if its published ones lie wide apart.
    """
    for model in dict.fromkeys(line.model for line in found):
        panels = []
        for task in dict.fromkeys(task_of(line.task) for line in found if line.model == model):
            here = [line for line in found if (line.model, task_of(line.task)) == (model, task)]
            anchors = [(a.protocol, a.source, a.value) for a in table.anchors if (a.model, task_of(a.task)) == (model, task)]
            rows, column = _rows(here, anchors), here[0].column
            title = _title(here[0])
            panel = DotPanel(title, rows, column.maximum, column.decimals) if column else DotPanel(title, rows)
            if len(rows) > 1 and (any(row.measured for row in rows) or _spread(rows) > WIDE * panel.maximum):
                panels.append(panel)
        alt = "; ".join(f"{panel.title}: {', '.join(_words(row, panel.decimals) for row in panel.rows)}" for panel in panels)
        plot = dot_plot(f"protocols-{file_name(model)}", f"{short(model)} under different protocols", alt, panels)
        yield from [plot] if plot else []


def _title(line: Line) -> str:
    """The benchmark's, without the protocol that a column's title may add: "HumanEval" of "HumanEval (chat)"."""
    return line.title.partition(" (")[0].partition(",")[0] if line.column and line.column.protocol else line.title


def _rows(here: Sequence[Line], anchors: Iterable[tuple[str, str, float]]) -> list[DotRow]:
    """A row for each protocol, the highest score first."""
    published: dict[str, list[float]] = {}
    measured: dict[str, list[Line]] = {}
    for line in here:
        if line.cell:
            values = published.setdefault(line.cell.protocol or UNKNOWN, [])
            values += [line.cell.value] if line.cell.value not in values else []
        if line.entry and line.measured:
            measured.setdefault(line.entry.protocol, []).append(line)
    for protocol, source, value in anchors:
        published.setdefault(f"{protocol}\n{source}", []).append(value)
    rows = [
        DotRow(name, published.get(name, ()), [(line.measured, line.comparable) for line in measured.get(name, ()) if line.measured])
        for name in dict.fromkeys([*published, *measured])
    ]
    return sorted(rows, key=lambda row: -max([*row.published, *(figure.value for figure, _ in row.measured)]))


def _spread(rows: Sequence[DotRow]) -> float:
    """How far the published figures lie apart."""
    values = [value for row in rows for value in row.published]
    return max(values) - min(values)


def _words(row: DotRow, decimals: int) -> str:
    told = [f"published {value:.{decimals}f}" for value in row.published]
    told += [f"measured {figure.value:.{decimals}f}" for figure, _ in row.measured]
    return f"{row.label.replace(chr(10), ', ')} {' and '.join(told)}"


def protocols(tasks: Iterable[str]) -> Iterator[Block]:
    """Every protocol of the tasks; for HumanEval, how many canonical solutions its cut breaks."""
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(tasks):
        if (cls := task_classes().get(name)) is None:
            continue
        for protocol in cls.protocols.values():
            remark = resolve(str(protocol)).remark()
            if remark is None and "canonical_passing" in protocol.settings:
                remark = f"breaks none of the {cls.official_n} canonical solutions"
            rows.append((str(protocol), protocol.summary, remark or "-", protocol.source))
    if rows:
        head = ("Protocol", "Summary", "Remarks", "Source")
        yield Grid("protocols", "The protocols of these tasks", "lppp", head, rows, folded=True)
