"""`evalkit report`."""

import argparse
from pathlib import Path

from evalkit.cli.options import add_published


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    report = commands.add_parser(
        "report",
        help="write the published tables beside what runs measured: markdown, CSV, LaTeX, HTML and plots",
        description="Write a published table with each figure beside what runs measured, and a verdict.",
    )
    report.add_argument("runs", nargs="*", metavar="RUN", help="a run's folder, its run.json, lm-eval's results folder, or a bench.json")
    add_published(report)
    report.add_argument("--out", metavar="DIR", help="folder for all formats (default: markdown on standard output)")
    report.set_defaults(command=_report)


def _report(arguments: argparse.Namespace) -> int:
    from evalkit.files import require_folder
    from evalkit.report.assemble import write_report

    if arguments.out is not None:
        require_folder(Path(arguments.out))
    return write_report(arguments.published, arguments.runs, arguments.out)
