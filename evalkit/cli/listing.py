"""`evalkit ls` and `evalkit data`: what there is, and whether it is the real thing."""

import argparse
from pathlib import Path

from evalkit.config import DEFAULTS


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the commands into the parser."""
    ls = commands.add_parser("ls", help="list tasks, protocols, models or runs")
    ls.add_argument("what", choices=("tasks", "protocols", "models", "runs"))
    ls.add_argument("--out", default=DEFAULTS["out"], help="where runs are kept")
    ls.set_defaults(run=_ls)

    data = commands.add_parser("data", help="what benchmark data is at hand, and is it the real thing?")
    data.add_argument("action", choices=("status", "fetch", "verify"))
    data.add_argument("tasks", nargs="*", metavar="TASK")
    data.add_argument("--data", help="hub, sample, or a folder (default: EVALKIT_DATA, else sample)")
    data.set_defaults(run=_data)


def _ls(arguments: argparse.Namespace) -> None:
    from evalkit.report import listing

    listing.SHOW[arguments.what](Path(arguments.out))


def _data(arguments: argparse.Namespace) -> int:
    import os

    from evalkit.report import listing

    spec = arguments.data or os.environ.get("EVALKIT_DATA") or "sample"
    return listing.DATA[arguments.action](spec, arguments.tasks)
