"""`evalkit compare`."""

import argparse

from evalkit.cli.options import add_pairing


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    compare = commands.add_parser(
        "compare",
        description="Compare two runs on the same documents, with paired statistics.",
        help="show what changed between two runs, document by document",
    )
    compare.add_argument("base", metavar="BASE", help="a run's folder, its run.json, or a results folder of lm-eval with samples")
    compare.add_argument("cand", metavar="CAND", help="the same for the candidate")
    add_pairing(compare)
    compare.add_argument("--out", metavar="DIR", help="folder for compare.md and compare.json")
    compare.set_defaults(command=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from evalkit.comparison.compare import compare_runs

    return compare_runs(arguments.base, arguments.cand, arguments.out, arguments.tasks, arguments.metric, arguments.cluster)
