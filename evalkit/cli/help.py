"""`evalkit help`, and what `evalkit` alone prints."""

import argparse
from functools import partial
from typing import Any

from evalkit.errors import unknown


def add(commands: "argparse._SubParsersAction[Any]", whole: argparse.ArgumentParser) -> None:
    """Put the command into the parser `whole`."""
    help = commands.add_parser(
        "help",
        help="print this help, or that of a command",
        description="Print the help of evalkit, or of one of its commands.",
        examples=("evalkit help", "evalkit help run"),
    )
    help.add_argument("topic", nargs="?", metavar="COMMAND", help="a command (default: all)")
    help.set_defaults(command=partial(_help, whole, commands.choices))


def _help(whole: argparse.ArgumentParser, parsers: dict[str, argparse.ArgumentParser], arguments: argparse.Namespace) -> None:
    if arguments.topic is not None and arguments.topic not in parsers:
        raise unknown("command", arguments.topic, parsers)
    (parsers[arguments.topic] if arguments.topic else whole).print_help()
