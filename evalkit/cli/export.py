"""`evalkit export`."""

import argparse

from evalkit.errors import EvalkitError

# the names in evalkit/exchange/formats.py, whose import would slow --help down; a test holds them to it
FORMATS = ("hub", "every-eval-ever", "inspect", "lm-eval", "evalplus", "fastchat", "trackio")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    export = commands.add_parser(
        "export",
        help="write a run as the files of another program",
        description="Write a finished run in another program's format. What each holds is in docs/exchange.md.",
        examples=(
            "evalkit export results/runs/base --to every-eval-ever --out shared",
            "evalkit export results/runs/base --to hub --dataset mmlu=ORG/NAME:TASK_ID",
        ),
    )
    export.add_argument(
        "run", metavar="RUN", help="a run's folder, its run.json, or results in any format that compare reads but lm-eval's"
    )
    export.add_argument("--to", required=True, choices=FORMATS, metavar="FORMAT", help=f"one of {', '.join(FORMATS)}")
    export.add_argument("--out", metavar="PATH", help="folder to write into (default: one with the format's name in the run's folder)")
    export.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="TASK=ORG/NAME:TASK_ID",
        help="with --to hub, the benchmark of the hub that a task is (default: gsm8k and lm_eval:mmlu_pro are known)",
    )
    export.add_argument("--project", metavar="NAME", help="with --to trackio, the project (default: evalkit)")
    export.set_defaults(command=_export)


def _export(arguments: argparse.Namespace) -> None:
    from evalkit.exchange.formats import export

    options: dict[str, str] = {}
    for given in arguments.dataset:
        task, sign, named = given.partition("=")
        if not sign or arguments.to != "hub":
            raise EvalkitError(f"--dataset {given}: {'expected TASK=ORG/NAME:TASK_ID' if not sign else 'has no effect but with --to hub'}")
        options[task] = named
    if arguments.project is not None:
        if arguments.to != "trackio":
            raise EvalkitError(f"--project {arguments.project} has no effect but with --to trackio; leave it out")
        options["project"] = arguments.project
    written = export(arguments.run, arguments.to, arguments.out, options)
    for path in written.files:
        print(f"wrote {path}")
    if written.left_out:
        print(f"left out: {written.left_out}")
