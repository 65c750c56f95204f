"""`evalkit gate`."""

import argparse

from evalkit.cli.options import add_pairing, add_published


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    gate = commands.add_parser("gate", help="may the candidate replace the base? exit 0 pass, 1 fail, 3 inconclusive, 2 not comparable")
    gate.add_argument("runs", nargs="+", metavar="RUN", help="BASE CAND, as for compare; with --against published one run")
    gate.add_argument("--margin", type=float, default=0.01, help="the drop that matters, in the metric's unit (default: 0.01, one point)")
    gate.add_argument("--against", metavar="published", help="gate one full run on published figures")
    add_published(gate, default=None, help="to gate on (default: all of them)")
    gate.add_argument("--allow-small-margin", action="store_true", help="take a margin below what these documents can detect")
    add_pairing(gate)
    gate.add_argument("--junit", metavar="FILE", help="write JUnit XML, a testcase a task")
    gate.add_argument("--summary", metavar="FILE", help="append markdown (default: GITHUB_STEP_SUMMARY, where set)")
    gate.add_argument("--json", metavar="FILE", help="write every figure")
    gate.set_defaults(command=_gate)


def _gate(arguments: argparse.Namespace) -> int:
    from evalkit.comparison.gate import gate_runs

    return gate_runs(
        arguments.runs,
        arguments.margin,
        against=arguments.against,
        published=arguments.published,
        tasks=arguments.tasks,
        metric=arguments.metric,
        cluster=arguments.cluster,
        allow_small_margin=arguments.allow_small_margin,
        junit_file=arguments.junit,
        summary_file=arguments.summary,
        json_file=arguments.json,
    )
