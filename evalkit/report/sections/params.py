"""`evalkit params`: parameters counted from configurations alone, beside the published ones.

Total, activated and non-embedding parameters are defined in `moe_lm.count`.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import EvalkitError, unknown
from evalkit.lm.native import count_parameters, known_configurations
from evalkit.record.schema import Run
from evalkit.report.document import Block, Document, Grid, Section
from evalkit.report.inputs import Inputs
from evalkit.report.published import ParameterTable, PublishedTable, Row, read_table, slug
from evalkit.report.render.files import attachments, write_files
from evalkit.report.render.markdown import to_markdown
from evalkit.report.verdict import Verdict

if TYPE_CHECKING:
    from rich.console import Console

FIGURES = {"total": "total", "activated": "activated", "activated_non_embedding": "activated non-embedding"}
FIELDS = ("model", "figure", "parameters", "published", "rounded", "verdict", "reason", "source")
DEFINITIONS = (
    "Total counts every tensor, a tied embedding once. Activated is total minus the routed experts that a token does not visit. "
    "Non-embedding leaves out the input embedding and an untied output head."
)


@dataclass(frozen=True, slots=True)
class Counted:
    """One model: its parameters by figure, and its row of the published table, if any."""

    model: str
    counts: Mapping[str, int]
    row: Row | None

    def verdict(self, figure: str, table: ParameterTable) -> Verdict:
        """Whether the printed figure is the count, rounded. If not, the table's note on it is the reason."""
        published, rounded = self.published(figure, table), self.rounded(figure, table)
        if self.row is None or published is None:
            return Verdict("nothing published")
        if published == rounded:
            return Verdict("reproduced")
        note = self.row.parameters[figure].note
        reason = f"{FIGURES[figure]} is printed {published}, the count rounds to {rounded}"
        # a count is exact: if the table explains the difference, the printed figure is at fault
        return Verdict("published figure inconsistent", f"{reason}; {note}") if note else Verdict("differs", reason)

    def overall(self, table: ParameterTable) -> Verdict:
        """One verdict on the model's row: the first figure that differs decides, and all that differ are named."""
        verdicts = [self.verdict(figure, table) for figure in FIGURES]
        off = [v for v in verdicts if v.word in ("differs", "published figure inconsistent")]
        return Verdict(off[0].word, "; ".join(v.reason for v in off)) if off else verdicts[0]

    def published(self, figure: str, table: ParameterTable) -> str | None:
        """The figure as printed, in billions; None if there is none."""
        printed = self.row.parameters.get(figure) if self.row else None
        return f"{printed.value:.{table.decimals}f}" if printed else None

    def rounded(self, figure: str, table: ParameterTable) -> str:
        """The count to the precision of the published table, in billions."""
        return f"{self.counts[figure] / 1e9:.{table.decimals}f}"


def count_models(specs: Sequence[str], table: PublishedTable) -> list[Counted]:
    """Count every model of the published table, or those in `specs`, each a name, a hub id, or a folder with a config.json.

    Raises EvalkitError for an unknown name and for a config.json that is missing, damaged or of an unsupported family.
    """
    return [_count(spec, table) for spec in dict.fromkeys(specs or [row.model for row in table.rows])]


def _count(spec: str, table: PublishedTable) -> Counted:
    folder = Path(spec).expanduser()
    if (folder / "config.json").is_file():
        return Counted(folder.resolve().name, count_parameters(folder), None)
    row = next((row for row in table.rows if slug(spec) == slug(row.model) or spec in row.hubs), None)
    name, known = slug(row.model if row else spec), known_configurations()
    if name in known:
        return Counted(row.model if row else name, count_parameters(name), row)
    if folder.is_dir() or "/" in spec:
        raise EvalkitError(f"model {spec}: no config.json there; give a folder that has one, or a known model: {', '.join(known)}")
    raise unknown("model", name, known)


def training_cost(counted: Sequence[Counted], table: PublishedTable) -> str:
    """What can be derived of the claimed saving, and what is missing; "" if either model was not counted.

    At equal tokens the cost of training is proportional to the activated non-embedding parameters.
    """
    claim = table.training_cost
    sizes = {c.row.model: c.counts["activated_non_embedding"] for c in counted if c.row}
    if claim is None or not {claim.model, claim.baseline} <= sizes.keys():
        return ""
    ratio = sizes[claim.model] / sizes[claim.baseline]
    tokens = (1 - claim.saving) / ratio
    return (
        f"training cost: at equal tokens {claim.model} costs {ratio:.3f} of {claim.baseline} (activated non-embedding parameters), "
        f"a saving of {1 - ratio:.0%}. The claimed {claim.saving:.0%} ({claim.origin}) can't be derived: "
        f"it would take {tokens:.2f} times the tokens, and {claim.missing} is not published."
    )


def section(inputs: Inputs) -> Section | None:
    """The parameter table of a report; None if the published table has no parameters."""
    if inputs.table.parameters is None:
        return None
    return section_of(count_models([], inputs.table), inputs.table, inputs.table.parameters, inputs.runs)


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
        Grid("Parameters", "lrrrrp", head, rows),
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
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for c in counted:
        for figure in FIGURES:
            verdict, published = c.verdict(figure, parameters), c.published(figure, parameters)
            source = parameters.source if published else ""
            rounded = c.rounded(figure, parameters)
            writer.writerow((c.model, figure, c.counts[figure], published, rounded, verdict.word, verdict.reason, source))
    return out.getvalue()


def show(counted: Sequence[Counted], table: PublishedTable, parameters: ParameterTable, console: "Console") -> None:
    """Print the table, why figures differ, and the training cost."""
    from rich.table import Table

    screen = Table(title=f"parameters: counted, and published ({parameters.source})", title_justify="left")
    screen.add_column("model", no_wrap=True)
    screen.add_column("parameters")
    screen.add_column("counted", justify="right", no_wrap=True)
    screen.add_column("published", justify="right", no_wrap=True)
    screen.add_column("verdict")
    for c in counted:
        for i, (figure, words) in enumerate(FIGURES.items()):
            published = c.published(figure, parameters)
            verdict = c.verdict(figure, parameters).word
            screen.add_row("" if i else c.model, words, f"{c.counts[figure]:,}", f"{published} B" if published else "-", verdict)
        screen.add_section()
    console.print(screen)
    remarks = [f"{c.model}: {c.overall(parameters).reason}" for c in counted if c.overall(parameters).reason]
    if cost := training_cost(counted, table):
        remarks.append(cost)
    for line in remarks:
        console.print(line, soft_wrap=True)


def write(counted: Sequence[Counted], table: PublishedTable, parameters: ParameterTable, out: Path) -> list[Path]:
    """Write params.md, parameters.csv, and the plot if a model has a published score. The same input gives the same bytes.

    Raises EvalkitError if `out` cannot be written.
    """
    document = Document(f"{table.title}: parameters", [], [section_of(counted, table, parameters)])
    return write_files(out, {"params.md": to_markdown(document).encode()} | attachments(document))


def print_parameters(specs: Sequence[str], out: Path | None = None, published: str = "qwen1.5-moe") -> int:
    """Count, print, and with `out` write the files. Returns the exit code; raises EvalkitError for bad input."""
    from evalkit.progress import console as standard_output

    table = read_table(published)
    if table.parameters is None:
        raise EvalkitError(f"the published table {published} prints no parameters")
    counted = count_models(specs, table)
    console = standard_output()
    show(counted, table, table.parameters, console)
    if out:
        for path in write(counted, table, table.parameters, out):
            console.print(f"wrote {path}", soft_wrap=True)
    return 0
