"""`evalkit report`."""

import argparse
from functools import partial
from pathlib import Path

from evalkit.cli.output import add_json, present

ALL = "all"
RUN_HELP = "a run's folder, its run.json, another program's results, a bench.json, or a .toml file of findings"
PUBLISHED_HELP = (
    "published tables, by name or .toml file; all: every one; of several, a page each and an index "
    "(default: those that have a figure for a run's model and task, or else qwen1.5-moe)"
)


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    report = commands.add_parser(
        "report",
        help="write the published tables beside what runs measured: markdown, CSV, LaTeX, HTML and plots",
        description="Write a published table with each figure beside what runs measured, and a verdict.",
        examples=(
            "evalkit report results/runs/* --out report",
            "evalkit report results/runs/base --published qwen2.5-coder",
            "evalkit report results/runs/* --runs-only --json",
        ),
    )
    report.add_argument("runs", nargs="*", metavar="RUN", help=RUN_HELP)
    tables = report.add_mutually_exclusive_group()
    tables.add_argument("--published", metavar="TABLE[,TABLE]", help=PUBLISHED_HELP)
    tables.add_argument("--runs-only", action="store_true", help="what the runs measured, without published figures")
    report.add_argument("--out", metavar="DIR", help="folder for all formats (default: markdown on standard output)")
    add_json(report, "all figures")
    report.set_defaults(command=_report)


def _report(arguments: argparse.Namespace) -> int:
    from evalkit.files import require_folder
    from evalkit.report.assemble import write_report
    from evalkit.report.published import table_names

    if arguments.out is not None:
        require_folder(Path(arguments.out))
    named = arguments.published and (table_names() if arguments.published == ALL else arguments.published.split(","))
    named = [] if arguments.runs_only else named
    return write_report(named, arguments.runs, arguments.out, partial(present, arguments))
