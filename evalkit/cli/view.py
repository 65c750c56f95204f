"""`evalkit view`."""

import argparse


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    view = commands.add_parser(
        "view",
        help="write the samples of one run, or of two side by side, as one HTML page",
        description="Write one self-contained HTML file with every prompt, response, extraction and score, with filters and search.",
        examples=(
            "evalkit view results/runs/base",
            "evalkit view results/runs/base results/runs/cand --out both.html",
        ),
    )
    view.add_argument(
        "runs", nargs="+", metavar="RUN", help="one or two of: a run's folder, its run.json, another program's results with samples"
    )
    view.add_argument("--out", metavar="PATH", help="folder for view.html, or another file to write (default: the folder of the last run)")
    view.add_argument("--open", action="store_true", help="open the page in a browser")
    view.set_defaults(command=_view)


def _view(arguments: argparse.Namespace) -> None:
    from evalkit.view.page import write_view

    write_view(arguments.runs, arguments.out, arguments.open)
