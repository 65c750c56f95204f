"""`evalkit compare`."""

import argparse

from evalkit.cli.options import add_pairing


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    compare = commands.add_parser("compare", help="what changed between two runs, document by document")
    compare.add_argument("base", metavar="BASE", help="a run's folder, run.json, or an lm-eval results folder with samples")
    compare.add_argument("cand", metavar="CAND", help="the same of the candidate")
    add_pairing(compare)
    compare.add_argument("--out", metavar="DIR", help="write compare.md and compare.json there")
    compare.set_defaults(command=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from evalkit.comparison.compare import compare_runs

    return compare_runs(arguments.base, arguments.cand, arguments.out, arguments.tasks, arguments.metric, arguments.cluster)
