"""`evalkit report` and `evalkit params`: published figures beside measured or counted ones."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the commands into the parser."""
    report = commands.add_parser("report", help="a published table beside what runs measured: markdown and CSV")
    report.add_argument("runs", nargs="*", metavar="RUN", help="a run's folder or run.json")
    report.add_argument("--published", default="qwen1.5-moe", help="the published table (default: qwen1.5-moe)")
    report.add_argument("--out", metavar="DIR", help="write NAME.md and NAME.csv there; without it the markdown goes to standard output")
    report.set_defaults(run=_report)

    params = commands.add_parser("params", help="parameters counted from configurations, beside the published ones")
    params.add_argument(
        "models", nargs="*", metavar="MODEL", help="a name or hub id, or a folder with config.json (default: the published table's models)"
    )
    params.add_argument("--published", default="qwen1.5-moe", help="the published table (default: qwen1.5-moe)")
    params.add_argument("--out", metavar="DIR", help="write params.md, params.csv, params.png and params.svg there")
    params.set_defaults(run=_params)


def _report(arguments: argparse.Namespace) -> None:
    from evalkit.record import read_run, write_atomically
    from evalkit.report.ledger import read_table
    from evalkit.report.table import lines, to_csv, to_markdown

    table = read_table(arguments.published)
    found = lines(table, [read_run(run) for run in arguments.runs])
    if not arguments.out:
        print(to_markdown(table, found))
        return
    out = Path(arguments.out)
    write_atomically(out / f"{table.name}.md", [to_markdown(table, found)])
    write_atomically(out / f"{table.name}.csv", [to_csv(found)])
    print(f"wrote {out / table.name}.md and .csv: {len(found)} figures")


def _params(arguments: argparse.Namespace) -> int:
    from evalkit.report.params import run

    return run(arguments.models, Path(arguments.out) if arguments.out else None, arguments.published)
