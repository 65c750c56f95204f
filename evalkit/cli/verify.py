"""`evalkit verify`."""

import argparse

from evalkit.cli.options import MODEL, add_shared, given, reporter_of, with_data
from evalkit.cli.output import add_json, present
from evalkit.config import RunConfig


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    verify = commands.add_parser(
        "verify",
        help="check that answers do not depend on batch size, order or prefix cache",
        description="Run the same documents in several batch sizes and orders, prefixes shared or not. Exit code 1 if an answer differs.",
        examples=(
            "evalkit verify --tasks mmlu,gsm8k --limit 8",
            "evalkit verify --tasks gsm8k --model ./checkpoint --data DIR --limit 8 --json",
        ),
    )
    add_shared(verify, "tasks", required=True)
    helps = {
        "engine": "native, or another engine, which is tested in several orders only",
        "limit": "at most N documents per task; each is run seven times",
    }
    add_shared(verify, *MODEL, "engine", "data", "limit", "quiet", helps=helps)
    add_json(verify, "all layouts")
    verify.set_defaults(command=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from evalkit.runner.verify import as_json, show, verify

    config = RunConfig(**with_data(given(arguments, RunConfig)))
    report = verify(config, reporter_of(arguments))
    present(arguments, lambda: as_json(report), lambda: show(config, report))
    return 0 if report.is_invariant else 1
