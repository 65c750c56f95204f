"""`evalkit verify`."""

import argparse

from evalkit.cli.options import add_device
from evalkit.config import DEFAULTS, DEMO_MODEL, RunConfig


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    verify = commands.add_parser(
        "verify",
        help="does an answer depend on what is asked beside it?",
        description="The same documents in several batch sizes and orders, prefixes shared or not: exit 0 all the same, 1 any differs.",
    )
    verify.add_argument("--tasks", metavar="T[,T]", required=True, help="as for evalkit run")
    verify.add_argument("--model", metavar="SPEC", help=f"as for evalkit run (default: {DEMO_MODEL})")
    verify.add_argument(
        "--engine", default=DEFAULTS["engine"], help="others than native are asked in several orders only (default: native)"
    )
    verify.add_argument("--data", help="hub, sample, or a folder (default: EVALKIT_DATA, else hub; sample for the demo model)")
    verify.add_argument("--limit", type=int, metavar="N", help="at most N documents a task (all of them run seven times)")
    add_device(verify)
    verify.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    import os

    from evalkit.progress import Reporter
    from evalkit.runner.verify import show, verify

    tasks = tuple(task.strip() for task in arguments.tasks.split(",") if task.strip())
    data = arguments.data or os.environ.get("EVALKIT_DATA")
    settings = {name: getattr(arguments, name) for name in ("model", "engine", "limit", "device", "dtype", "kernel")}
    config = RunConfig(tasks, data=data, **settings)
    report = verify(config, Reporter())
    show(config, report)
    return 0 if report.is_invariant else 1
