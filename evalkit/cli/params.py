"""`evalkit params`."""

import argparse
from pathlib import Path

from evalkit.cli.options import add_published


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    params = commands.add_parser(
        "params",
        help="count parameters from configurations, beside the published figures",
        description="Count parameters from configurations, beside the published figures.",
    )
    params.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="a model's name, hub id, or folder with config.json (default: the published table's models)",
    )
    add_published(params)
    params.add_argument("--out", metavar="DIR", help="folder for params.md, parameters.csv and the plot")
    params.set_defaults(command=_params)


def _params(arguments: argparse.Namespace) -> int:
    from evalkit.files import require_folder
    from evalkit.report.sections.params import print_parameters

    if arguments.out is not None:
        require_folder(Path(arguments.out))
    return print_parameters(arguments.models, Path(arguments.out) if arguments.out else None, arguments.published)
