"""`evalkit compare` and `evalkit gate`: two runs on the same documents, or one beside published figures."""

import argparse


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the commands into the parser."""
    compare = commands.add_parser("compare", help="what changed between two runs, document by document")
    compare.add_argument("base", metavar="BASE", help="a run's folder, run.json, or an lm-eval results folder with samples")
    compare.add_argument("cand", metavar="CAND", help="the same of the candidate")
    _pairing(compare)
    compare.add_argument("--out", metavar="DIR", help="write compare.md and compare.json there")
    compare.set_defaults(run=_compare)

    gate = commands.add_parser("gate", help="may the candidate replace the base? exit 0 pass, 1 fail, 3 inconclusive, 2 not comparable")
    gate.add_argument("runs", nargs="+", metavar="RUN", help="BASE CAND, as for compare; with --against published one run")
    gate.add_argument("--margin", type=float, default=0.01, help="the drop that matters, in the metric's unit (default: 0.01, one point)")
    gate.add_argument("--against", metavar="published", help="gate one full run on the published figures")
    gate.add_argument("--allow-small-margin", action="store_true", help="take a margin below what these documents can detect")
    _pairing(gate)
    gate.add_argument("--junit", metavar="FILE", help="write JUnit XML, a testcase a task")
    gate.add_argument("--summary", metavar="FILE", help="append markdown (default: GITHUB_STEP_SUMMARY, where set)")
    gate.add_argument("--json", metavar="FILE", help="write every figure")
    gate.set_defaults(run=_gate)


def _pairing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", metavar="T[,T]", help="only these of the runs' tasks")
    parser.add_argument("--metric", help="instead of the headline: acc_norm; of lm-eval's with its filter: exact_match,strict-match")
    parser.add_argument("--cluster", metavar="FIELD", help="the field of a document that names its source: a passage, a sentence")


def _tasks(arguments: argparse.Namespace) -> tuple[str, ...]:
    return tuple(task.strip() for task in (arguments.tasks or "").split(",") if task.strip())


def _compare(arguments: argparse.Namespace) -> int:
    from evalkit.comparison.compare import run

    return run(arguments.base, arguments.cand, arguments.out, _tasks(arguments), arguments.metric, arguments.cluster)


def _gate(arguments: argparse.Namespace) -> int:
    from evalkit.comparison.gate import run

    return run(
        arguments.runs,
        arguments.margin,
        against=arguments.against,
        tasks=_tasks(arguments),
        metric=arguments.metric,
        cluster=arguments.cluster,
        allow_small_margin=arguments.allow_small_margin,
        junit_file=arguments.junit,
        summary_file=arguments.summary,
        json_file=arguments.json,
    )
