"""`evalkit report`: assembles the sections of a report and writes it in every format."""

from collections.abc import Callable
from pathlib import Path

from evalkit.progress import Reporter
from evalkit.report.document import Document, Section
from evalkit.report.inputs import Inputs, read_inputs
from evalkit.report.render.files import attachments, write_files
from evalkit.report.render.html import to_html
from evalkit.report.render.latex import to_latex
from evalkit.report.render.markdown import to_markdown
from evalkit.report.sections import judged, multilingual, params, quality, throughput

# one line per section; a section returns None if the inputs have nothing for it
SECTIONS: tuple[Callable[[Inputs], Section | None], ...] = (
    quality.section,
    params.section,
    throughput.section,
    multilingual.section,
)


def assemble(inputs: Inputs) -> Document:
    """Assemble the report on these inputs."""
    lead = [f"Published figures beside measured ones, with a verdict on each. Measured: {_runs(inputs)}."]
    found = [section(inputs) for section in SECTIONS] + judged.sections(inputs)
    return Document(f"{inputs.table.title}: published and measured", lead, [section for section in found if section])


def _runs(inputs: Inputs) -> str:
    names = [run.name for run in inputs.runs] + [f"bench of {bench.model.spec}" for bench in inputs.benches]
    return ", ".join(names) or "nothing yet"


def report_files(inputs: Inputs) -> dict[str, bytes]:
    """report.md, .tex and .html, tables as CSV, plots as PNG and SVG. The same inputs give the same bytes."""
    document = assemble(inputs)
    texts = {"report.md": to_markdown(document), "report.tex": to_latex(document), "report.html": to_html(document)}
    return {name: text.encode("utf-8", "replace") for name, text in texts.items()} | attachments(document)


def write_report(published: str, paths: list[str], out: str | None) -> int:
    """Write the report into `out`, or print its markdown. Raises EvalkitError for input that is neither a run nor a bench record."""
    inputs = read_inputs(published, paths)
    reporter = Reporter()
    for line in inputs.skipped:
        reporter.say(line)
    if out is None:
        print(to_markdown(assemble(inputs)))
        return 0
    written = write_files(Path(out), report_files(inputs))
    tally = ", ".join(f"{count} {word}" for word, count in assemble(inputs).tally.items())
    print(f"wrote {len(written)} files to {out}: open {Path(out) / 'report.html'} in a browser\n{tally}")
    return 0
