"""A published table regenerated from the ledger and any number of runs: markdown and CSV, the same bytes for the same input."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.registry import resolve
from evalkit.report.ledger import Cell, Column, PublishedTable, Row
from evalkit.report.verdict import Verdict, verdict

FIELDS = (
    *(
        "model",
        "task",
        "published",
        "measured",
        "ci95_low",
        "ci95_high",
        "difference",
        "verdict",
        "reason",
        "protocol",
        "published_protocol",
    ),
    *("n", "n_total", "data", "data_sha256", "fingerprint", "run", "origin", "note"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One figure: published, measured (percent), and what to think of it."""

    model: str
    task: str
    cell: Cell | None
    column: Column | None
    run: Mapping[str, Any] | None
    measured: Mapping[str, Any] | None

    @property
    def verdict(self) -> Verdict:
        return verdict(self.cell, self.column, self.task, self.measured)

    @property
    def estimate(self) -> tuple[float, float, float] | None:
        """Value and 95% interval of the headline metric, in percent."""
        if self.measured is None:
            return None
        figure = self.measured["metrics"][self.measured["headline"]]
        return 100 * figure["value"], 100 * figure["ci95"][0], 100 * figure["ci95"][1]


def lines(table: PublishedTable, runs: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Every cell of the table in its order, once a run that measured it; then what runs measured of other models."""
    found = []
    for row in table.rows:
        for column in table.columns:
            cell = row.cells.get(column.task)
            matching = list(_measurements(runs, column.task, row))
            found += [Line(row.model, column.task, cell, column, run, measured) for run, measured in matching]
            if not matching and cell:
                found.append(Line(row.model, column.task, cell, column, None, None))
    others = [run for run in runs if not any(row.is_model(run["model"]["spec"]) for row in table.rows)]
    for run in others:
        found += [Line(run["model"]["spec"], _task(key), None, None, run, measured) for key, measured in run["tasks"].items()]
    return found


def _measurements(runs: Sequence[Mapping[str, Any]], task: str, row: Row) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for run in runs:
        if row.is_model(run["model"]["spec"]):
            yield from ((run, measured) for key, measured in run["tasks"].items() if _task(key) == task)


def _task(key: str) -> str:
    return key.partition("@")[0]


def to_csv(found: Sequence[Line]) -> str:
    """One line a figure, with everything that belongs to it."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    for line in found:
        writer.writerow(_record(line))
    return out.getvalue()


def _record(line: Line) -> dict[str, Any]:
    judged = line.verdict
    record: dict[str, Any] = {"model": line.model, "task": line.task, "verdict": judged.word, "reason": judged.reason}
    if line.cell:
        record |= {
            "published": line.cell.value,
            "published_protocol": line.cell.protocol,
            "origin": line.cell.origin,
            "note": line.cell.note,
        }
    if line.measured and line.estimate and line.run:
        value, low, high = (round(x, 4) for x in line.estimate)
        record |= {"measured": value, "ci95_low": low, "ci95_high": high, "protocol": line.measured["protocol"]}
        record |= {"n": line.measured["n"], "n_total": line.measured["n_total"], "run": line.run["name"]}
        record |= {"data": line.measured["data"]["source"], "data_sha256": line.measured["data"]["sha256"]}
        record |= {"fingerprint": line.run["model"]["fingerprint"]}
        if line.cell:
            record["difference"] = round(line.estimate[0] - line.cell.value, 4)
    return record


def to_markdown(table: PublishedTable, found: Sequence[Line]) -> str:
    """The table as published, then every figure beside its measurement."""
    parts = [f"# {table.title}\n", f"Published: {table.source}. A cell reads *published* or *published → **measured***.\n"]
    parts.append(_grid(table, found))
    parts.append("## Every figure\n")
    head = ("Model", "Task", "Published", "Measured", "95% interval", "Difference", "Verdict", "Protocol", "n", "Data")
    parts.append(markdown_table(head, [_row(line) for line in found]))
    notes = [f"- {line.model}, {line.task}: {text}" for line in found for text in _notes(line)]
    parts.append("## Sources and notes\n\n" + "\n".join(dict.fromkeys(notes)) + "\n")
    parts.append("Intervals are unpaired, 95%, over documents; against a published figure no paired one is possible.\n")
    return "\n".join(parts)


def _grid(table: PublishedTable, found: Sequence[Line]) -> str:
    models = list(dict.fromkeys(line.model for line in found))
    cells = {(line.model, line.task): _grid_cell(line) for line in found}
    rows = [(model, *(cells.get((model, column.task), "-") for column in table.columns)) for model in models]
    return markdown_table(("Model", *(column.title for column in table.columns)), rows)


def _grid_cell(line: Line) -> str:
    published = f"{line.cell.value:.{line.column.decimals}f}" if line.cell and line.column else "-"
    if line.estimate is None:
        return published
    mark = "" if line.verdict.word in ("reproduced", "differs") else "\\*"
    return f"{published} → **{line.estimate[0]:.1f}**{mark}"


def _row(line: Line) -> tuple[str, ...]:
    published = f"{line.cell.value:.{line.column.decimals}f}" if line.cell and line.column else "-"
    if line.measured is None or line.estimate is None:
        return (
            line.model,
            line.task,
            published,
            "-",
            "-",
            "-",
            str(line.verdict),
            f"({line.cell.protocol or 'unpublished'})" if line.cell else "-",
            "-",
            "-",
        )
    value, low, high = line.estimate
    n = (
        f"{line.measured['n']:,}"
        if line.measured["n"] == line.measured["n_total"]
        else f"{line.measured['n']:,} of {line.measured['n_total']:,}"
    )
    difference = f"{value - line.cell.value:+.1f}" if line.cell else "-"
    protocol = f"{line.task}@{line.measured['protocol']}"
    data = f"{line.measured['data']['source']} {line.measured['data']['sha256'][:8]}"
    return (line.model, line.task, published, f"{value:.1f}", f"{low:.1f} to {high:.1f}", difference, str(line.verdict), protocol, n, data)


def _notes(line: Line) -> Iterator[str]:
    if line.cell:
        yield line.cell.origin + (f"; {line.cell.note}" if line.cell.note else "")
    if line.run and line.measured:
        if remark := resolve(f"{line.task}@{line.measured['protocol']}").remark():
            yield remark
        model = line.run["model"]
        yield f"measured in run {line.run['name']} with {model['engine']}, {model.get('dtype')}, model {model['fingerprint'][:19]}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown of one table; bars and line breaks in a cell are escaped."""
    bars = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in bars) + "\n"
