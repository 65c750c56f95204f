"""The parameters' section, and `evalkit params`: parameters counted from configurations alone, beside the published ones."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import EvalkitError
from evalkit.record.schema import Run
from evalkit.report.counted import FIGURES, Counted, count_models, training_cost
from evalkit.report.document import Block, Document, Grid, Section
from evalkit.report.inputs import Inputs
from evalkit.report.published import ParameterTable, PublishedTable, read_table
from evalkit.report.render.files import attachments, write_files
from evalkit.report.render.markdown import to_markdown
from evalkit.report.verdict import Verdict
from evalkit.table import Present, Table, on_screen

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1
HEAD = ("model", "parameters", "counted", "published", "verdict")
FIELDS = ("model", "figure", "parameters", "published", "rounded", "verdict", "reason", "source")
DEFINITIONS = (
    "Total counts every tensor, a tied embedding once. Activated is total minus the routed experts that a token does not visit. "
    "Non-embedding leaves out the input embedding and an untied output head."
)


def section(inputs: Inputs) -> Section | None:
    """The parameter table of a report; None if the published table has no parameters."""
    if (table := inputs.table) is None or table.parameters is None:
        return None
    return section_of(count_models([], table), table, table.parameters, inputs.runs)


def section_of(counted: Sequence[Counted], table: PublishedTable, parameters: ParameterTable, runs: Sequence[Run] = ()) -> Section:
    """Counts beside printed figures, the definitions, the training cost, and the plot."""
    from evalkit.report.plots.activated import activated_plot

    head = ("Model", *(f"{words.capitalize()}, counted" for words in FIGURES.values()), "Published (billions)", "Verdict")
    rows: list[tuple[str | Verdict, ...]] = []
    for c in counted:
        published = " / ".join(c.published(figure, parameters) or "-" for figure in FIGURES)
        rows.append((c.model, *(f"{c.counts[figure]:,}" for figure in FIGURES), published, c.overall(parameters)))
    verdicts = [c.verdict(figure, parameters) for c in counted for figure in FIGURES if c.published(figure, parameters)]
    blocks: list[Block] = [
        f"Published: {parameters.source}. Counted from the models' configurations; no weights were read. {DEFINITIONS}",
        Grid("parameters", "Parameters", "lrrrrp", head, rows),
    ]
    if cost := training_cost(counted, table):
        claim = Verdict("cannot tell", "can't be derived from what is published")
        verdicts.append(claim)
        blocks.append(f"{cost[0].upper()}{cost[1:]} Verdict: {claim.word}.")
    if plot := activated_plot(counted, table, runs):
        blocks.append(plot)
    return Section("parameters", "Parameters: counted and published", blocks, verdicts, {"parameters": to_csv(counted, parameters)})


def to_csv(counted: Sequence[Counted], parameters: ParameterTable) -> str:
    """One line per figure: parameters exact, and in billions as published and rounded."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records(counted, parameters))
    return out.getvalue()


def as_json(counted: Sequence[Counted], table: PublishedTable, parameters: ParameterTable) -> Mapping[str, Any]:
    """The document of --json."""
    found = {"schema": SCHEMA, "kind": "parameters", "parameters": records(counted, parameters)}
    return found | {"notes": remarks(counted, table, parameters)}


def records(counted: Sequence[Counted], parameters: ParameterTable) -> list[Mapping[str, Any]]:
    """The same as JSON has it."""
    found: list[Mapping[str, Any]] = []
    for c in counted:
        for figure in FIGURES:
            verdict, published = c.verdict(figure, parameters), c.published(figure, parameters)
            source = parameters.source if published else ""
            rounded = c.rounded(figure, parameters)
            values = (c.model, figure, c.counts[figure], published, rounded, verdict.word, verdict.reason, source)
            found.append(dict(zip(FIELDS, values, strict=True)))
    return found


def show(counted: Sequence[Counted], table: PublishedTable, parameters: ParameterTable, console: "Console") -> None:
    """Print the table, why figures differ, and the training cost."""
    rows = []
    for c in counted:
        for i, (figure, words) in enumerate(FIGURES.items()):
            published = c.published(figure, parameters)
            verdict = c.verdict(figure, parameters).word
            rows.append(("" if i else c.model, words, f"{c.counts[figure]:,}", f"{published} B" if published else "-", verdict))
    title, rules = f"parameters: counted, and published ({parameters.source})", range(len(FIGURES) - 1, len(rows), len(FIGURES))
    Table(title, HEAD, rows, left=("parameters", "verdict"), rules=rules).show(console)
    for line in remarks(counted, table, parameters):
        console.print(line, soft_wrap=True)


def remarks(counted: Sequence[Counted], table: PublishedTable, parameters: ParameterTable) -> list[str]:
    """Why figures differ, and the training cost."""
    found = [f"{c.model}: {c.overall(parameters).reason}" for c in counted if c.overall(parameters).reason]
    cost = training_cost(counted, table)
    return [*found, cost] if cost else found


def write(counted: Sequence[Counted], table: PublishedTable, parameters: ParameterTable, out: Path) -> list[Path]:
    """Write params.md, parameters.csv, and the plot if a model has a published score. The same input gives the same bytes.

    Raises EvalkitError if `out` cannot be written.
    """
    document = Document(f"{table.title}: parameters", [], [section_of(counted, table, parameters)])
    return write_files(out, {"params.md": to_markdown(document).encode()} | attachments(document))


def print_parameters(
    specs: Sequence[str],
    out: Path | None = None,
    published: str = "qwen1.5-moe",
    present: Present = on_screen,
) -> int:
    """Count, present, and with `out` write the files. Returns the exit code; raises EvalkitError for bad input."""
    from evalkit.progress import console as standard_output

    table = read_table(published)
    if table.parameters is None:
        raise EvalkitError(f"the published table {published} prints no parameters")
    counted = count_models(specs, table)
    console = standard_output()
    parameters = table.parameters
    present(lambda: as_json(counted, table, parameters), lambda: show(counted, table, parameters, console))
    if out:
        for path in write(counted, table, table.parameters, out):
            console.print(f"wrote {path}", soft_wrap=True)
    return 0
