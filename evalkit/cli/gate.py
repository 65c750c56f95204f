"""`evalkit gate`."""

import argparse

from evalkit.cli.options import add_pairing, add_published
from evalkit.comparison.gate_config import GateConfig, Margins


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    gate = commands.add_parser(
        "gate",
        help="decide whether a candidate may replace a base: exit code 0 pass, 1 fail, 3 inconclusive, 2 not comparable or cannot detect",
        description="Decide whether the candidate scores worse than the base by a margin. Explained in docs/ci.md.",
    )
    gate.add_argument("runs", nargs="+", metavar="RUN", help="BASE and CAND, as for compare; with --against published, one run")
    gate.add_argument(
        "--margin",
        default=str(Margins()),
        metavar="X[,T=X]",
        help="the smallest drop that matters, in the metric's unit, for all tasks or task by task: mmlu=0.01,gsm8k=0.03 "
        "(default: %(default)s, one point)",
    )
    gate.add_argument("--against", metavar="published", help="compare one full run with the published figures")
    add_published(gate, default=None, help="with --against published (default: all tables)")
    gate.add_argument("--allow-small-margin", action="store_true", help="accept a margin below the effect that these documents can detect")
    add_pairing(gate)
    gate.add_argument("--junit", metavar="FILE", help="write JUnit XML, one test case for each task")
    gate.add_argument("--summary", metavar="FILE", help="append a summary in markdown (default: the file that GITHUB_STEP_SUMMARY names)")
    gate.add_argument("--json", metavar="FILE", help="write all figures as JSON")
    gate.set_defaults(command=_gate)


def _gate(arguments: argparse.Namespace) -> int:
    from evalkit.comparison.gate import gate_runs

    names = ("against", "published", "tasks", "metric", "cluster", "allow_small_margin", "junit", "summary", "json")
    settings = {name: getattr(arguments, name) for name in names}
    return gate_runs(GateConfig(tuple(arguments.runs), Margins.parse(arguments.margin), **settings))
