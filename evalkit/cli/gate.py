"""`evalkit gate`."""

import argparse
from functools import partial

from evalkit.cli.options import SHARED, add_pairing, add_published, add_shared, given, with_data
from evalkit.cli.output import add_json, json_file, present
from evalkit.comparison.gate_config import ORDERS, GateConfig, Margins, Sequential, beside_policy
from evalkit.config import RunConfig
from evalkit.errors import EvalkitError

CANDIDATE = tuple(name for name in SHARED if name not in ("tasks", "limit", "seed", "fresh"))  # the base's own decide those


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    gate = commands.add_parser(
        "gate",
        help="decide whether a candidate may replace a base: exit code 0 pass, 1 fail, 3 inconclusive, 2 not comparable or cannot detect",
        description="Decide whether the candidate scores worse than the base by a margin. Explained in docs/ci.md.",
        examples=(
            "evalkit gate results/runs/base results/runs/cand --margin 0.01 --junit gate.xml",
            "evalkit gate results/runs/base results/runs/cand --policy gate.toml",
            "evalkit gate results/runs/base --model SPEC --sequential",
            "evalkit gate --against published results/runs/base --margin 0.02",
        ),
    )
    gate.add_argument(
        "runs", nargs="+", metavar="RUN", help="BASE and CAND, as for compare; with --against published or --sequential, one run"
    )
    gate.add_argument(
        "--margin",
        metavar="X[,T=X]",
        help="the smallest drop that matters, in the metric's unit, for all tasks or task by task: mmlu=0.01,gsm8k=0.03 "
        f"(default: {Margins()}, one point)",
    )
    gate.add_argument("--policy", metavar="FILE", help="a gate.toml: margins, tiers and limits, rule by rule, in a file (docs/ci.md)")
    gate.add_argument(
        "--bench",
        nargs=2,
        default=(),
        metavar=("BASE", "CAND"),
        help="bench.json of both models, of one evalkit bench with --repeats, for the policy's [throughput] and [memory]",
    )
    gate.add_argument("--against", metavar="published", help="compare one full run with the published figures")
    add_published(gate, default=None, help="with --against published (default: all tables)")
    gate.add_argument("--allow-small-margin", action="store_true", help="accept a margin below the effect that these documents can detect")
    add_pairing(gate)
    gate.add_argument("--junit", metavar="FILE", help="write JUnit XML, one test case for each task")
    gate.add_argument("--summary", metavar="FILE", help="append a summary in markdown (default: the file that GITHUB_STEP_SUMMARY names)")
    add_json(gate, "all figures", or_file=True)
    gate.add_argument("--comment", metavar="FILE", help="write markdown for a comment on a pull request; its first line never changes")
    gate.add_argument(
        "--bundle", metavar="FILE", help="write runs, policy and decision into one file, for evalkit audit; it holds the documents"
    )
    sequential = gate.add_argument_group(
        "a gate that stops by itself",
        "BASE --model SPEC --sequential runs the candidate on BASE's documents, block by block, until the gate is decided. The same "
        "command again goes on; evalkit run finishes the run.",
    )
    sequential.add_argument("--sequential", action="store_true", help="run the candidate, and compute no more than the decision needs")
    sequential.add_argument(
        "--replay-order", action="store_true", help="decide on BASE and CAND, both finished, as --sequential would have"
    )
    sequential.add_argument("--order-seed", type=int, metavar="N", help="seed of the documents' order (default: 0)")
    sequential.add_argument(
        "--order",
        choices=ORDERS,
        help="margin: more of the documents whose decision was close in BASE, once some flip (default: uniform)",
    )
    sequential.add_argument(
        "--block",
        type=int,
        metavar="N",
        help="documents before the first look and between looks (default: by the margin, and more where prompts share long beginnings, "
        "which engines other than native compute again in every block)",
    )
    sequential.add_argument(
        "--max-documents", type=int, metavar="N", help="stop after about N documents of each task: what is undecided is 3"
    )
    sequential.add_argument("--max-minutes", type=float, metavar="X", help="stop after X minutes: what is undecided is 3")
    add_shared(gate.add_argument_group("the candidate of --sequential"), *CANDIDATE)
    gate.set_defaults(command=_gate)


def _gate(arguments: argparse.Namespace) -> int:
    from evalkit.comparison.gate import gate_runs

    if arguments.policy and arguments.margin is not None:
        raise beside_policy("margins")
    files = ("junit", "summary", "comment", "bundle")
    names = ("against", "published", "tasks", "metric", "cluster", "allow_small_margin", "policy", *files)
    settings = {name: getattr(arguments, name) for name in names} | {"bench": tuple(arguments.bench), "json": json_file(arguments)}
    margins = Margins() if arguments.margin is None else Margins.parse(arguments.margin)
    return gate_runs(GateConfig(tuple(arguments.runs), margins, sequential=_sequential(arguments), **settings), partial(present, arguments))


def _sequential(arguments: argparse.Namespace) -> Sequential | None:
    """Raises EvalkitError for options that have no effect."""
    limits = {name: getattr(arguments, name) for name in ("order_seed", "order", "block", "max_documents", "max_minutes")}
    limits = {name: value for name, value in limits.items() if value is not None}
    candidate = {name: value for name, value in given(arguments, RunConfig).items() if name in CANDIDATE}
    if arguments.sequential and not arguments.replay_order:
        return Sequential(with_data(candidate), **limits)
    if odd := [*candidate, *(() if arguments.replay_order else limits)]:
        how = "two finished runs are given" if arguments.replay_order else "nothing is run: add --sequential"
        raise EvalkitError(f"--{odd[0].replace('_', '-')} has no effect, since {how}, or leave it out")
    return Sequential(None, **limits) if arguments.replay_order else None
