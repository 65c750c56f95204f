"""The report as markdown, and helpers for tables and texts in markdown."""

import re
from collections.abc import Iterator, Sequence

from evalkit.report.document import Block, Claim, Claims, Document, Grid, GridCell, Link, Pair, claim_words, tally_words
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
    parts = [f"# {md(document.title)}\n", *map(_block, document.story)]
    for section in document.sections:
        parts.append(f"## {md(section.title)}\n")
        if section.tally:
            parts.append(f"{md(tally_words(section.tally))}\n")
        parts += map(_block, section.blocks)
    if document.index:
        parts.append(f"[All tables]({document.index}.md)\n")
    return "\n".join(parts)


def _block(block: Block) -> str:
    if isinstance(block, str):
        return f"{md(block)}\n"
    title = f"### {md(block.title)}\n\n"
    if isinstance(block, Grid):
        rows = [[_cell(cell) for cell in row] for row in block.rows]
        return title + markdown_table([md(name) for name in block.head], rows, block.align)
    if isinstance(block, Plot):
        return f"{title}![{md(block.alt)}]({block.name}.svg)\n"
    if isinstance(block, Claims):
        return title + "".join(line for claim in block.claims for line in _claim(claim))
    return title + "".join(f"- {md(line)}\n" for line in block.lines)


def _claim(claim: Claim) -> Iterator[str]:
    yield f"- **{md(claim.title)}**: {md(claim_words(claim))}\n"
    for each in claim.causes:
        yield f"  - **Tested: {md(each.cause)}.** {md(f'{each.effect}. {each.conclusion}')}\n"


def _cell(cell: GridCell) -> str:
    if isinstance(cell, Pair):
        if not cell.measured:
            return md(cell.published)
        return f"{md(cell.published)} → **{md(cell.measured)}**" + ("" if cell.sure else "\\*")
    if isinstance(cell, Link):
        return f"[{md(cell.text)}]({cell.target}.md)"
    return md(str(cell))
