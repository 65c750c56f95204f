"""`evalkit correct`."""

import argparse
import json
from pathlib import Path

from evalkit.cli.output import add_json, json_file, present
from evalkit.files import require_file, write_output


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    correct = commands.add_parser(
        "correct",
        help="correct a judge's score by its errors on labelled answers",
        description="The share of right answers behind a judge's verdicts, from its sensitivity and specificity on labelled answers. "
        "Explained in docs/statistics.md.",
        examples=("evalkit correct results/runs/judged --labels labels.jsonl --right-from 7",),
    )
    correct.add_argument("run", metavar="RUN", help="a finished run whose answers a judge, or a pattern, has scored")
    correct.add_argument(
        "--labels", metavar="FILE", required=True, help='lines of {"id" or "question": .., "right": true or false}; .gz too'
    )
    correct.add_argument(
        "--labelled", metavar="RUN", help="the run whose answers the labels are of (default: RUN, whose others are corrected)"
    )
    correct.add_argument("--tasks", "--task", metavar="T", dest="task", help="the task, where the run has several (formerly --task)")
    correct.add_argument("--metric", metavar="M", help="the judge's score (default: the task's headline)")
    correct.add_argument("--right-from", metavar="X", type=float, help="the score from which an answer is passed, for ratings")
    add_json(correct, "all figures", or_file=True)
    correct.set_defaults(command=_correct)


def _correct(arguments: argparse.Namespace) -> None:
    from evalkit.comparison.compare import one_line, table
    from evalkit.judge.corrected import CorrectConfig, as_json, correct
    from evalkit.progress import console
    from evalkit.stats.estimate import Estimate

    if (file := json_file(arguments)) is not None:
        require_file(Path(file), "--json")
    config = CorrectConfig(arguments.run, arguments.labels, arguments.labelled, arguments.task, arguments.metric, arguments.right_from)
    found = correct(config)

    def row(name: str, share: Estimate, of: str) -> tuple[str, ...]:
        low, high = (100 * bound for bound in share.ci95)
        return name, f"{100 * share.value:.2f}", f"{low:.2f} to {high:.2f}", f"{share.n:,} {of}"

    rates = found.rates
    rows = [
        row("sensitivity: right answers passed", rates.sensitivity.share, "labelled right"),
        row("specificity: wrong answers not passed", rates.specificity.share, "labelled wrong"),
        row("passed, as the judge says", found.passed.share, "answers without a label"),
        row("right, corrected", found.value, "answers without a label"),
    ]
    what = f"{one_line(found.run.model.spec)}: {one_line(found.task)}, {one_line(found.metric)} of {found.right_from:g} or more is passed"
    head = ("share", "%", "95% interval", "of")
    present(arguments, lambda: as_json(found), lambda: table(what, head, rows).show(console()))
    if file:
        write_output(Path(file), json.dumps(as_json(found), indent=2) + "\n")
