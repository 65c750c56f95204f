"""`evalkit report` and `evalkit params`: published figures beside measured or counted ones."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the commands into the parser."""
    report = commands.add_parser(
        "report",
        help="published tables beside what runs measured: markdown, CSV, LaTeX, HTML, plots",
        description="The published tables, each figure beside what runs measured, with a verdict.",
    )
    report.add_argument("runs", nargs="*", metavar="RUN", help="a run's folder or run.json, or a bench.json")
    report.add_argument("--published", default="qwen1.5-moe", help="the published table (default: %(default)s)")
    report.add_argument("--out", metavar="DIR", help="write every format there; without it the markdown goes to standard output")
    report.set_defaults(run=_report)

    params = commands.add_parser("params", help="parameters counted from configurations, beside the published ones")
    params.add_argument(
        "models", nargs="*", metavar="MODEL", help="a name or hub id, or a folder with config.json (default: the published table's models)"
    )
    params.add_argument("--published", default="qwen1.5-moe", help="the published table (default: qwen1.5-moe)")
    params.add_argument("--out", metavar="DIR", help="write params.md, parameters.csv and the plot there")
    params.set_defaults(run=_params)


def _report(arguments: argparse.Namespace) -> int:
    from evalkit.report.assemble import run

    return run(arguments.published, arguments.runs, arguments.out)


def _params(arguments: argparse.Namespace) -> int:
    from evalkit.report.sections.params import run

    return run(arguments.models, Path(arguments.out) if arguments.out else None, arguments.published)
