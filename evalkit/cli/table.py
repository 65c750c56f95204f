"""The tables that `evalkit ls` and `evalkit data` print."""

from collections.abc import Sequence

FIGURES = ("documents", "measured", "n")  # aligned to the right


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *remarks: str) -> None:
    """Print a table of plain texts, then the remarks."""
    from rich.table import Table

    from evalkit.progress import console

    screen = console()
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in FIGURES else "left")
    for row in rows:
        table.add_row(*row)
    screen.print(table)
    print_lines(*remarks)


def print_lines(*lines: str) -> None:
    """Print plain texts, a line each."""
    from evalkit.progress import console

    screen = console()
    for line in lines:
        screen.print(line, soft_wrap=True)
