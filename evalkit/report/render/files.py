"""A report's attachments, and writing its files."""

from collections.abc import Mapping
from pathlib import Path

from evalkit.files import write_output
from evalkit.report.document import Document


def attachments(document: Document) -> dict[str, bytes]:
    """The CSV files and plots that belong to a document, by file name."""
    files = {f"{name}.csv": text.encode("utf-8", "replace") for section in document.sections for name, text in section.csv.items()}
    for plot in document.plots:
        files |= {f"{plot.name}.png": plot.png, f"{plot.name}.svg": plot.svg, f"{plot.name}.pdf": plot.pdf}
    return files


def write_files(out: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files into `out`; returns their paths, sorted. Raises EvalkitError if that fails."""
    for name, content in files.items():
        write_output(out / name, content)
    return [out / name for name in sorted(files)]
