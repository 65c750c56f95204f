"""`evalkit report`: assembles a page for each published table, and an index of them, and writes them in every format."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.progress import Reporter
from evalkit.report.document import Document, Grid, Link, Section, tally_words
from evalkit.report.inputs import Inputs, read_inputs
from evalkit.report.lines import lines, lines_of_runs
from evalkit.report.render.files import attachments, write_files
from evalkit.report.render.html import to_html
from evalkit.report.render.latex import latex_files
from evalkit.report.render.markdown import to_markdown
from evalkit.report.sections import judged, measured, multilingual, params, quality, throughput
from evalkit.report.story import claimed, story, summary
from evalkit.table import Present, on_screen

SCHEMA = 1
# one line per section; a section returns None if the inputs have nothing for it
SECTIONS: tuple[Callable[[Inputs], Section | None], ...] = (
    quality.section,
    params.section,
    throughput.section,
    multilingual.section,
)


def assemble(inputs: Inputs, index: str = "") -> Document:
    """Assemble the page on these inputs. `index` is the page that leads to it, without its ending."""
    sections = [section for make in SECTIONS if (section := make(inputs))] + judged.sections(inputs)
    if (table := inputs.table) is None:
        return Document("Measured scores", [_runs_alone(inputs)], [measured.section(inputs), *sections])
    told = story(table, lines(table, inputs.runs), inputs.findings)
    return Document(f"{table.title}: published and measured", told, sections, index)


def _runs_alone(inputs: Inputs) -> str:
    names = ", ".join(run.name for run in inputs.runs)
    return f"What these runs measured, without published figures: {names}."


def index(pages: Sequence[Inputs]) -> Document:
    """A line for each published table: what it claims, what was found, and where its page is."""
    rows = []
    for page in pages:
        assert page.table
        found = lines(page.table, page.runs)
        rows.append((Link(page.table.title, f"{page.table.name}/report"), claimed(page.table, found), summary(found)))
    grid = Grid("tables", "Published tables", "lpp", ("Table", "Claimed", "Found here"), rows)
    return Document("Published tables, measured", [grid], [])


def report_files(inputs: Inputs, index: str = "") -> dict[str, bytes]:
    """The page as report.md and .html, as LaTeX in a file per table, tables as CSV, plots as PNG, SVG and PDF.

    The same inputs give the same bytes.
    """
    document = assemble(inputs, index)
    texts = {"report.md": to_markdown(document), "report.html": to_html(document)} | latex_files(document)
    return {name: text.encode("utf-8", "replace") for name, text in texts.items()} | attachments(document)


def all_files(pages: Sequence[Inputs]) -> dict[str, bytes]:
    """One page's files; or those of several, each in a folder with its table's name, beside an index."""
    if len(pages) == 1:
        return report_files(pages[0])
    listed = index(pages)
    files = {"index.md": to_markdown(listed).encode("utf-8", "replace"), "index.html": to_html(listed).encode("utf-8", "replace")}
    for page in pages:
        assert page.table
        files |= {f"{page.table.name}/{name}": content for name, content in report_files(page, "../index").items()}
    return files


def as_json(pages: Sequence[Inputs]) -> Mapping[str, Any]:
    """The figures of all pages, unrounded: the document of --json."""
    tables = []
    for page in pages:
        table = page.table
        found = lines_of_runs(page.runs) if table is None else lines(table, page.runs)
        tables.append({"table": table and table.name, "title": table and table.title, "figures": [line.as_json() for line in found]})
    return {"schema": SCHEMA, "kind": "report", "tables": tables, "notes": pages[0].skipped}


def write_report(published: Sequence[str] | None, paths: Sequence[str], out: str | None, present: Present = on_screen) -> int:
    """Write the report into `out`, or print its markdown; present its figures. With an empty list of published
    tables it is of the runs alone; None: the tables that have figures for what the runs measured.

    Raises EvalkitError for input that is none.
    """
    pages = read_inputs(published, paths)
    reporter = Reporter()
    for line in pages[0].skipped:
        reporter.say(line)
    if out is None:
        present(lambda: as_json(pages), lambda: print("\n".join(to_markdown(assemble(page)) for page in pages)))
        return 0
    files = all_files(pages)
    write_files(Path(out), files)
    first = "report.html" if len(pages) == 1 else "index.html"
    print(f"wrote {len(files)} files to {out}: open {Path(out) / first} in a browser")
    present(lambda: as_json(pages), lambda: _show(pages))
    return 0


def _show(pages: Sequence[Inputs]) -> None:
    """The story of each page and how its figures came out, in a few lines."""
    for page in pages:
        document = assemble(page)
        print("\n".join([document.title, *(f"  {block}" for block in document.story[:2])]))
        print("\n".join(f"  {section.title}: {tally_words(section.tally)}" for section in document.sections if section.tally))
