"""A team's own table: what the runs measured, with no published figure beside it."""

from collections.abc import Sequence

from evalkit.report.document import Block, Grid, Section
from evalkit.report.inputs import Inputs
from evalkit.report.lines import Line, lines_of_runs, short, under
from evalkit.report.plots.dots import DotPanel, DotRow, dot_plot
from evalkit.report.plots.plot import Plot
from evalkit.report.sections.protocols import protocols
from evalkit.report.sections.quality import run_notes, to_csv
from evalkit.report.sections.subjects import subject_plot
from evalkit.report.verdict import why_no_figure, why_not_comparable

HEAD = ("Model", "Task", "Measured (95% interval)", "Remark", "Measured with")


def section(inputs: Inputs) -> Section:
    """The runs' table, every figure, and the plots."""
    found = lines_of_runs(inputs.runs)
    blocks: list[Block] = [
        "Intervals are 95%, over documents. A star marks a figure that is not the benchmark's: its remark says why."
        " Use evalkit compare to see whether two models differ: it pairs their answers document by document.",
        _grid(found),
        *(plot for plot in (_plot(found),) if plot),
        Grid("measured", "Every measured figure", "llrpp", HEAD, [_row(line) for line in found], keys=2),
        *(plot for plot in (subject_plot(inputs.runs),) if plot),
        *run_notes(found),
        *protocols(line.task for line in found),
    ]
    return Section("quality", "Scores", blocks, csv={"quality": to_csv(found, inputs)})


def _grid(found: Sequence[Line]) -> Grid:
    """A row for each model, a column for each task and protocol."""
    columns = list(dict.fromkeys((line.task, line.protocol) for line in found))
    held = {(line.model, line.task, line.protocol): line for line in found}
    rows = [(model, *(_cell(held.get((model, *column))) for column in columns)) for model in dict.fromkeys(line.model for line in found)]
    return Grid("scores", "Measured scores", "l" + "r" * len(columns), ("Model", *(under(*column) for column in columns)), rows)


def _cell(line: Line | None) -> str:
    if line is None:
        return "-"
    return line.figure_and_interval + ("*" if line.measured and _remark(line) else "")


def _row(line: Line) -> tuple[str, ...]:
    return (line.model, line.task, line.figure_and_interval, _remark(line) or "-", line.how)


def _remark(line: Line) -> str:
    """Why a figure is not the benchmark's, or why there is none; "" where nothing is amiss."""
    if line.entry is None:
        return ""
    return why_not_comparable(line.task, line.entry) if line.measured else why_no_figure(line.entry)


def _plot(found: Sequence[Line]) -> Plot | None:
    """A panel for each task and protocol, a row for each model."""
    panels = []
    for task, protocol in dict.fromkeys((line.task, line.protocol) for line in found):
        here = [line for line in found if (line.task, line.protocol) == (task, protocol) and line.measured]
        rows = [DotRow(short(line.model), (), [(line.measured, line.comparable)]) for line in here if line.measured]
        if rows:
            column, title = here[0].column, under(task, protocol)
            panels.append(DotPanel(title, rows, column.maximum, column.decimals) if column else DotPanel(title, rows))
    alt = "; ".join(f"{line.model} {under(line.task, line.protocol)} {line.figure_and_interval}" for line in found if line.measured)
    return dot_plot("scores", "Measured scores with 95% intervals", alt, panels)
