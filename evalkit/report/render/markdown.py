"""The report as markdown, and helpers for tables and texts in markdown."""

import re
from collections.abc import Sequence

from evalkit.report.document import Block, Document, Grid, GridCell, Notes, Pair
from evalkit.report.plots.plot import Plot


def md(text: str) -> str:
    """Text escaped for markdown: no links, tags, emphasis or mentions (markdown_table escapes bars)."""
    return re.sub(r"[\\`*_\[\]<>#&~]|(?<!\w)@", r"\\\g<0>", text)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """Markdown of one table; bars and line breaks in a cell are escaped. `align`: one letter per column, r for right."""
    rules = ["---:" if letter == "r" else "---" for letter in align or "l" * len(head)]
    bars = [head, rules, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in bars) + "\n"


def to_markdown(document: Document) -> str:
    """report.md; plots are separate files in its folder."""
    parts = [f"# {md(document.title)}\n", *(f"{md(text)}\n" for text in document.lead)]
    parts.append("".join(f"- {count} {word}\n" for word, count in document.tally.items()))
    for section in document.sections:
        parts.append(f"## {md(section.title)}\n")
        parts += [_block(block) for block in section.blocks]
    return "\n".join(part for part in parts if part)


def _block(block: Block) -> str:
    if isinstance(block, Grid):
        rows = [[_cell(cell) for cell in row] for row in block.rows]
        return f"### {md(block.title)}\n\n" + markdown_table([md(name) for name in block.head], rows, block.align)
    if isinstance(block, Notes):
        return f"### {md(block.title)}\n\n" + "".join(f"- {md(line)}\n" for line in block.lines)
    if isinstance(block, Plot):
        return f"### {md(block.title)}\n\n![{md(block.alt)}]({block.name}.svg)\n"
    return f"{md(block)}\n"


def _cell(cell: GridCell) -> str:
    if isinstance(cell, Pair):
        if not cell.measured:
            return md(cell.published)
        return f"{md(cell.published)} → **{md(cell.measured)}**" + ("" if cell.sure else "\\*")
    return md(str(cell))
