"""`evalkit compare`."""

import argparse
from functools import partial

from evalkit.cli.options import add_pairing
from evalkit.cli.output import add_json, present


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    compare = commands.add_parser(
        "compare",
        description="Compare two runs on the same documents, with paired statistics.",
        help="show what changed between two runs, document by document",
        examples=(
            "evalkit compare results/runs/base results/runs/cand",
            "evalkit compare results/runs/base results/runs/cand --tasks mmlu --out report",
        ),
    )
    compare.add_argument(
        "base", metavar="BASE", help="a run's folder, its run.json, or another program's results with samples (docs/exchange.md)"
    )
    compare.add_argument("cand", metavar="CAND", help="the same for the candidate")
    add_pairing(compare)
    compare.add_argument("--out", metavar="DIR", help="folder for compare.md and compare.json")
    add_json(compare, "compare.json")
    compare.set_defaults(command=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from evalkit.comparison.compare import compare_runs

    how = (arguments.tasks, arguments.metric, arguments.cluster)
    return compare_runs(arguments.base, arguments.cand, arguments.out, *how, partial(present, arguments))
