"""A table as the screen shows it. No figure is ever cut: what is too wide for the screen is printed row by row.

What a command found is presented as a document, or shown in tables: the command line decides.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evalkit.errors import printable

if TYPE_CHECKING:  # rich would slow --help down
    from rich.console import Console
    from rich.table import Table as Drawing

READABLE = 16  # characters: a column of texts is folded down to this width
BORDERS = 3  # characters of a column beside its cells

# called with what makes the JSON document, and with what shows the tables
Present = Callable[[Callable[[], object], Callable[[], object]], None]


def on_screen(document: Callable[[], object], show: Callable[[], object]) -> None:
    """Presents the tables."""
    show()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under a head.

    An empty first cell stands for the one above it. Columns are figures, aligned to the right, but for the first one, those of `left`, and
    those of `folds`: texts that may go over several lines. After the rows of `rules`, by index, a line is drawn.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Collection[str] = ()
    folds: Collection[str] = ()
    rules: Collection[int] = ()

    def show(self, console: "Console") -> None:
        """Print it, as wide as the console at most."""
        console.print(self.title, style="table.title", soft_wrap=True)
        shown = replace(self, head=[*map(printable, self.head)], rows=[[*map(printable, row)] for row in self.rows])
        widths = next((some for some in shown._widths() if sum(some) + BORDERS * len(some) + 1 <= console.width), None)
        if widths is not None:
            console.print(shown._drawn(widths))
            return
        for line in shown._row_by_row(console.width):
            console.print(line, soft_wrap=True)

    def _widths(self) -> Iterator[Sequence[int]]:
        """The least widths of the columns: with each name on one line, then with a line for each word of it."""
        from rich.cells import cell_len

        cells = [max((cell_len(row[i]) for row in self.rows), default=0) for i in range(len(self.head))]
        least = [min(cell, READABLE) if name in self.folds else cell for name, cell in zip(self.head, cells, strict=True)]
        for names in ([cell_len(name) for name in self.head], [max(map(cell_len, name.split()), default=0) for name in self.head]):
            yield [max(pair) for pair in zip(least, names, strict=True)]

    def _drawn(self, widths: Sequence[int]) -> "Drawing":
        from rich.table import Table as Drawing

        drawing = Drawing()
        for i, (name, width) in enumerate(zip(self.head, widths, strict=True)):
            is_text = i == 0 or name in self.left or name in self.folds
            drawing.add_column(
                name, justify="left" if is_text else "right", overflow="fold", width=None if name in self.folds else width, min_width=width
            )
        for i, row in enumerate(self.rows):
            drawing.add_row(*row, end_section=i in self.rules)
        return drawing

    def _row_by_row(self, width: int) -> Iterator[str]:
        """Each row as its first cell and, indented below it, the name and value of all others."""
        first = ""
        for row in self.rows:
            first = row[0] or first
            yield f"- {first}"
            line = ""
            for part in (f"{name} {cell}" for name, cell in zip(self.head[1:], row[1:], strict=True) if cell):
                if line and len(f"    {line}, {part},") > width:
                    yield f"    {line},"
                    line = ""
                line += f", {part}" if line else part
            if line:
                yield f"    {line}"
