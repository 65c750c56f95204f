"""The report as LaTeX, to be \\input into a paper: a file for the text, and one for each table.

Tables are set for a column of a two-column paper in 7-point type, which is never shrunk: one that is too wide is cut into parts below each
other, each with the columns that name its rows. Needs booktabs, array, graphicx and the T1 font encoding.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import ceil

from evalkit.report.document import Block, Claims, Document, Grid, GridCell, Link, Pair, claim_words, tally_words
from evalkit.report.plots.plot import WIDTH, Plot

HEADER = r"""% Made by evalkit report. In the preamble:
%   \usepackage[T1]{fontenc} \usepackage{booktabs,array,graphicx}
% Where these files are in another folder than the paper: \newcommand{\evalkitfolder}{path/to/the/report/}
\providecommand{\evalkitfolder}{}
"""
LATIN = 0x180  # T1 has the letters of Latin-1 and Latin Extended-A
LINE = 3.3 * 72.27  # points: the width of a column
SPACE = 5.0  # points between two columns
NARROW, WIDE = " .,:;'()[]|!/-ijlft", "mwMW%@→×±"
WIDEST, WIDEST_KEY = 100.0, 72.0  # points of a column of texts before it wraps, and of one that names a row
BOLD = 1.16  # a bold text's width
MOST_LINES = 66  # of a table: more do not fit on a page
LONGEST = 12  # characters of a word without a place to break it
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
    "@": r"@\allowbreak{}",
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


def latex_files(document: Document) -> dict[str, str]:
    """report.tex, and table-NAME.tex for each table that it inputs."""
    grids = [block for block in document.blocks if isinstance(block, Grid)]
    return {"report.tex": to_latex(document)} | {f"table-{grid.name}.tex": to_table(grid) for grid in grids}


def to_latex(document: Document) -> str:
    """report.tex: the story, then one section per chapter, with tables and plots by file name."""
    parts = [HEADER, f"\\section*{{{tex(document.title)}}}\n", *map(_block, document.story)]
    for section in document.sections:
        parts.append(f"\\subsection*{{{tex(section.title)}}}\n")
        if section.tally:
            parts.append(f"{tex(tally_words(section.tally))}.\n")
        parts += map(_block, section.blocks)
    return "\n".join(parts)


def _block(block: Block) -> str:
    if isinstance(block, str):
        return f"{tex(block)}\n"
    if isinstance(block, Grid):
        return f"\\input{{\\evalkitfolder table-{block.name}}}\n"
    if isinstance(block, Plot):
        width = f"\\ifdim\\linewidth<{WIDTH}in\\linewidth\\else{WIDTH}in\\fi"
        image = f"\\includegraphics[width={width}]{{\\evalkitfolder {block.name}.pdf}}"
        return f"\\begin{{figure}}[htbp]\n  \\centering\n  {image}\n  \\caption{{{tex(block.title)}}}\n\\end{{figure}}\n"
    lines = _claims(block) if isinstance(block, Claims) else map(tex, block.lines)
    items = "".join(f"  \\item {line}\n" for line in lines)
    return f"\\paragraph{{{tex(block.title)}}}\n\\begin{{itemize}}\\footnotesize\\raggedright\n{items}\\end{{itemize}}\n"


def _claims(block: Claims) -> Iterator[str]:
    for claim in block.claims:
        yield f"\\textbf{{{tex(claim.title)}}}: {tex(claim_words(claim))}"
        for each in claim.causes:
            yield f"\\emph{{Tested: {tex(each.cause)}.}} {tex(f'{each.effect}. {each.conclusion}')}"


def to_table(grid: Grid) -> str:
    """table-NAME.tex: the table in as many parts as its width needs, and as many floats as its height needs."""
    parts = list(_parts(grid))
    heights = [sum(_height(grid, row, part) for part in parts) for row in grid.rows]
    pages = [0, *(int(total // MOST_LINES) for total in accumulate(heights))]
    floats = [[row for row, page in zip(grid.rows, pages[1:], strict=True) if page == at] for at in dict.fromkeys(pages[1:])] or [[]]
    return "\n".join(_float(grid, rows, parts, f" ({n} of {len(floats)})" if len(floats) > 1 else "") for n, rows in enumerate(floats, 1))


Part = dict[int, float]  # a column's place in the table -> its width in points


def _parts(grid: Grid) -> Iterator[Part]:
    """The columns of each part: those that name a row, and as many others as fit."""
    widths = {i: _width(grid, i) for i in range(len(grid.head))}
    keys = {i: widths[i] for i in range(grid.keys)}
    part = dict(keys)
    for column in range(grid.keys, len(grid.head)):
        if len(part) > len(keys) and sum(part.values()) + widths[column] + SPACE * len(part) > LINE:
            yield _widened(grid, part)
            part = dict(keys)
        part[column] = min(widths[column], LINE - sum(part.values()) - SPACE * len(part))
    yield _widened(grid, part)


def _widened(grid: Grid, part: Part) -> Part:
    """What is left of the line is shared by the columns of paragraphs."""
    wide = [column for column in part if grid.align[column] == "p"]
    left = LINE - sum(part.values()) - SPACE * (len(part) - 1)
    return {column: width + (left / len(wide) if column in wide else 0) for column, width in part.items()}


def _width(grid: Grid, column: int) -> float:
    """A column of numbers is as wide as its longest; one of texts wraps."""
    texts = [_points(_plain(row[column])) * (BOLD if isinstance(row[column], Pair) else 1) for row in grid.rows]
    longest = max([*texts, *(BOLD * _points(word) for word in grid.head[column].split())])
    return longest if grid.align[column] == "r" else min(longest, WIDEST_KEY if column < grid.keys else WIDEST)


def _points(text: str) -> float:
    """The width of a text in 7-point type, about: Computer Modern's widths, rounded up."""
    return 1.0 + sum(2.7 if c in NARROW else 6.4 if c in WIDE else 5.3 if c.isupper() else 4.0 for c in text)


def _height(grid: Grid, row: Sequence[GridCell], part: Part) -> float:
    """How many lines a row is high."""
    return max(ceil(_points(_plain(row[column])) / width) for column, width in part.items())


def _float(grid: Grid, rows: Sequence[Sequence[GridCell]], parts: Sequence[Part], number: str) -> str:
    label = "" if number and not number.startswith(" (1 ") else f"\\label{{tab:{grid.name}}}"
    caption = f"\\caption{{{tex(grid.title + number)}}}{label}"
    bodies = "\n\\par\\smallskip\n".join(_tabular(grid, rows, part) for part in parts)
    setting = "\\centering\\scriptsize\\setlength{\\tabcolsep}{2.5pt}"
    return f"\\begin{{table}}[htbp]\n{setting}\n{caption}\n{bodies}\n\\end{{table}}\n"


def _tabular(grid: Grid, rows: Sequence[Sequence[GridCell]], part: Part) -> str:
    ragged = {"r": "\\raggedleft", "l": "\\raggedright", "p": "\\raggedright"}
    align = "".join(f">{{{ragged[grid.align[column]]}\\arraybackslash}}p{{{width:.1f}pt}}" for column, width in part.items())
    head = " & ".join(f"\\textbf{{{tex(grid.head[column])}}}" for column in part)
    body = "".join(" & ".join(_cell(row[column]) for column in part) + " \\\\\n" for row in rows)
    return f"\\begin{{tabular}}{{@{{}}{align}@{{}}}}\n\\toprule\n{head} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}"


def _plain(cell: GridCell) -> str:
    if isinstance(cell, Pair):
        return f"{cell.published} > {cell.measured}*" if cell.measured else cell.published
    return cell.text if isinstance(cell, Link) else str(cell)


def _cell(cell: GridCell) -> str:
    if isinstance(cell, Pair):
        if not cell.measured:
            return tex(cell.published)
        return f"{tex(cell.published)} $\\to$ \\textbf{{{tex(cell.measured)}}}" + ("" if cell.sure else "*")
    return " ".join(_broken(word) for word in _plain(cell).split(" "))


def _broken(word: str) -> str:
    """A word with places where it may break, if it is long and has none of its own."""
    pieces = re.split(r"(?<=[-_/@])", word)
    if max(map(len, pieces)) <= LONGEST:
        return tex(word)
    return "".join("\\allowbreak{}".join(tex(piece[i : i + LONGEST]) for i in range(0, len(piece), LONGEST)) for piece in pieces)
