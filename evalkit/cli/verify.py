"""`evalkit verify`."""

import argparse

from evalkit.cli.options import MODEL, add_shared, given, reporter_of, with_data
from evalkit.config import RunConfig


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    verify = commands.add_parser(
        "verify",
        help="check that answers do not depend on batch size, order or prefix cache",
        description="Run the same documents in several batch sizes and orders, prefixes shared or not. Exit code 1 if an answer differs.",
    )
    add_shared(verify, "tasks", required=True)
    helps = {
        "engine": "native, or another engine, which is tested in several orders only",
        "limit": "at most N documents per task; each is run seven times",
    }
    add_shared(verify, *MODEL, "engine", "data", "limit", helps=helps)
    verify.set_defaults(command=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from evalkit.runner.verify import show, verify

    config = RunConfig(**with_data(given(arguments, RunConfig)))
    report = verify(config, reporter_of(arguments))
    show(config, report)
    return 0 if report.is_invariant else 1
