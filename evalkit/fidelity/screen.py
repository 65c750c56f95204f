"""What `evalkit fidelity` prints and writes."""

from pathlib import Path

from rich.console import Console

from evalkit.fidelity.document import to_document
from evalkit.fidelity.record import Fidelity
from evalkit.report.document import Block, Grid, Notes
from evalkit.report.render.files import attachments, write_files
from evalkit.report.render.html import to_html
from evalkit.report.render.markdown import to_markdown
from evalkit.table import Table


def show(record: Fidelity, console: Console) -> None:
    """Print the document's tables and remarks."""
    document = to_document(record)
    for block in document.blocks:
        _show(block, console)


def _show(block: Block, console: Console) -> None:
    if isinstance(block, Grid):
        columns = list(zip(block.head, block.align, strict=True))
        left, folds = ([name for name, letter in columns if letter in letters] for letters in ("lp", "p"))
        Table(block.title, block.head, [[*map(str, row)] for row in block.rows], left, folds).show(console)
    elif isinstance(block, Notes):
        for line in block.lines:
            console.print(f"- {line}", soft_wrap=True)
    elif isinstance(block, str):
        console.print(block, soft_wrap=True)


def write(record: Fidelity, out: Path) -> list[Path]:
    """fidelity.md and fidelity.html, and the plot as PNG, SVG and PDF; fidelity.json is there already. Raises EvalkitError."""
    document = to_document(record)
    texts = {"fidelity.md": to_markdown(document), "fidelity.html": to_html(document)}
    return write_files(out, {name: text.encode("utf-8", "replace") for name, text in texts.items()} | attachments(document))
