"""`evalkit score`."""

import argparse
from pathlib import Path

from evalkit.config import DEFAULTS


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    score = commands.add_parser("score", help="answers made elsewhere, scored as a run", description="Score a file of answers.")
    score.add_argument("task", metavar="TASK", help="humaneval; with a protocol (humaneval@codex) its extraction is applied first")
    score.add_argument("file", metavar="FILE", type=Path, help="a .jsonl or .jsonl.gz of {task_id, completion}")
    score.add_argument("--data", help="hub, sample, or a folder (default: EVALKIT_DATA, else hub)")
    score.add_argument("--out", type=Path, default=Path(str(DEFAULTS["out"])), help="where runs are kept (default: %(default)s)")
    score.add_argument("--name", help="the run's folder (default: made of the file's name and the task)")
    score.add_argument("--allow-unsafe-code", action="store_true", help="run model-written code without a full sandbox")
    score.add_argument("--quiet", action="store_true", help="print the result only")
    score.set_defaults(run=_score)


def _score(arguments: argparse.Namespace) -> None:
    import os

    from rich.console import Console

    from evalkit.progress import Reporter
    from evalkit.report.screen import show
    from evalkit.score import ScoreConfig, score

    data = arguments.data or os.environ.get("EVALKIT_DATA") or "hub"
    config = ScoreConfig(arguments.task, arguments.file, data, arguments.out, arguments.name, arguments.allow_unsafe_code)
    record, folder = score(config, Reporter(arguments.quiet))
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    show(record, folder, console)
