"""`evalkit view`."""

import argparse


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    view = commands.add_parser(
        "view",
        help="the samples of a run, or of two side by side, as one HTML file",
        description="One self-contained HTML file: every prompt, response, extraction and score, with filters and search.",
    )
    view.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, run.json, or an lm-eval results folder; at most two")
    view.add_argument("--out", metavar="FILE.html", help="(default: view.html in the run's folder; of two, in the second's)")
    view.add_argument("--open", action="store_true", help="open it in the browser")
    view.set_defaults(command=_view)


def _view(arguments: argparse.Namespace) -> None:
    from evalkit.view.page import write_view

    write_view(arguments.runs, arguments.out, arguments.open)
