"""The report's tables and notes as LaTeX, to be \\input into a paper. Needs booktabs, longtable and the T1 font encoding."""

from evalkit.report.document import Block, Document, Grid, GridCell, Notes, Pair
from evalkit.report.plots.plot import Plot

HEADER = r"""% Made by evalkit report. In the preamble:
%   \usepackage[T1]{fontenc} \usepackage{booktabs,longtable,array,graphicx}
"""
LATIN = 0x180  # T1 has the letters of Latin-1 and Latin Extended-A
LONG = 45  # a table with more rows, or with long texts, breaks over pages; others shrink to the page's width
ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_\allowbreak{}",  # long paths break where they can
    "/": r"/\allowbreak{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "→": r"$\to$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "\n": " ",
}


def tex(text: str) -> str:
    """Text with LaTeX's special characters escaped; what the T1 encoding cannot print becomes a question mark."""
    return "".join(ESCAPES.get(c) or (c if c.isprintable() and ord(c) < LATIN else "?") for c in text)


def to_latex(document: Document) -> str:
    """report.tex: one section per chapter, with tables, notes, and plots by file name."""
    parts = [HEADER]
    for section in document.sections:
        parts.append(f"\\section*{{{tex(section.title)}}}\n")
        parts += [_block(block, f"{section.slug}-{i}") for i, block in enumerate(section.blocks)]
    return "\n".join(parts)


def _block(block: Block, label: str) -> str:
    if isinstance(block, Grid):
        return _table(block, label)
    if isinstance(block, Notes):
        items = "".join(f"  \\item {tex(line)}\n" for line in block.lines)
        return f"\\paragraph{{{tex(block.title)}}}\n\\begin{{itemize}}\\footnotesize\n{items}\\end{{itemize}}\n"
    if isinstance(block, Plot):
        image = f"\\includegraphics[width=\\linewidth]{{{block.name}.png}}"
        return f"\\begin{{figure}}[htbp]\n  \\centering\n  {image}\n  \\caption{{{tex(block.title)}}}\n\\end{{figure}}\n"
    return f"{tex(block)}\n"


def _table(grid: Grid, label: str) -> str:
    paragraphs = grid.align.count("p")
    breaks = len(grid.rows) > LONG or paragraphs > 1
    width = (0.72 if breaks else 0.45) / max(1, paragraphs)
    align = "".join(f">{{\\raggedright\\arraybackslash}}p{{{width:.2f}\\linewidth}}" if letter == "p" else letter for letter in grid.align)
    head = " & ".join(f"\\textbf{{{tex(name)}}}" for name in grid.head) + r" \\"
    rows = [" & ".join(_cell(cell) for cell in row) + r" \\" for row in grid.rows]
    name = f"\\caption{{{tex(grid.title)}}}\\label{{tab:{label}}}"
    body = "\n".join(rows)
    if breaks:
        begin = f"{{\\scriptsize\\setlength{{\\tabcolsep}}{{3pt}}\n\\begin{{longtable}}{{{align}}}\n{name} \\\\\n"
        return f"{begin}\\toprule\n{head}\n\\midrule\n\\endhead\n{body}\n\\bottomrule\n\\end{{longtable}}}}\n"
    tabular = f"\\begin{{tabular}}{{{align}}}\n\\toprule\n{head}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}"
    fitted = f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{tabular}}}"
    return f"\\begin{{table}}[htbp]\n\\centering\\footnotesize\\setlength{{\\tabcolsep}}{{3pt}}\n{name}\n{fitted}\n\\end{{table}}\n"


def _cell(cell: GridCell) -> str:
    if isinstance(cell, Pair):
        if not cell.measured:
            return tex(cell.published)
        return f"{tex(cell.published)} $\\to$ \\textbf{{{tex(cell.measured)}}}" + ("" if cell.sure else "*")
    return tex(str(cell))
