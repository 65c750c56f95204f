"""`evalkit params`."""

import argparse
from functools import partial
from pathlib import Path

from evalkit.cli.options import add_published
from evalkit.cli.output import add_json, present


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    params = commands.add_parser(
        "params",
        help="count parameters from configurations, beside the published figures",
        description="Count parameters from configurations, beside the published figures.",
        examples=(
            "evalkit params",
            "evalkit params ./checkpoint --out params",
        ),
    )
    params.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="a model's name, hub id, or folder with config.json (default: the published table's models)",
    )
    add_published(params)
    params.add_argument("--out", metavar="DIR", help="folder for params.md, parameters.csv and the plot")
    add_json(params, "all counts")
    params.set_defaults(command=_params)


def _params(arguments: argparse.Namespace) -> int:
    from evalkit.files import require_folder
    from evalkit.report.sections.params import print_parameters

    if arguments.out is not None:
        require_folder(Path(arguments.out))
    out = Path(arguments.out) if arguments.out else None
    return print_parameters(arguments.models, out, arguments.published, partial(present, arguments))
