"""`evalkit score`."""

import argparse
from pathlib import Path

from evalkit.config import DEFAULTS


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    score = commands.add_parser("score", help="answers made elsewhere, scored as a run", description="Score a file of answers.")
    score.add_argument("task", metavar="TASK", help="humaneval, mt_bench, ..; a protocol (humaneval@codex) is applied first")
    score.add_argument("file", metavar="FILE", type=Path, help="a .jsonl or .jsonl.gz of {task_id, completion}, or of FastChat's judgments")
    score.add_argument("--data", help="hub, sample, or a folder (default: EVALKIT_DATA, else hub)")
    score.add_argument("--out", type=Path, default=Path(str(DEFAULTS["out"])), help="where runs are kept (default: %(default)s)")
    score.add_argument("--name", help="the run's folder (default: made of the file's name and the task)")
    score.add_argument("--allow-unsafe-code", action="store_true", help="run model-written code without a full sandbox")
    score.add_argument("--quiet", action="store_true", help="print the result only")
    score.set_defaults(run=_score)


def _score(arguments: argparse.Namespace) -> None:
    import os

    from evalkit.progress import Reporter, console
    from evalkit.report.screen import show
    from evalkit.runner.score_file import ScoreConfig, score
    from evalkit.tasks.registry import task_classes

    data = arguments.data or os.environ.get("EVALKIT_DATA") or "hub"
    if (task := task_classes().get(arguments.task.partition("@")[0])) and task.judge_prompts:
        from evalkit.judge import screen
        from evalkit.judge.given import score_judgments

        for run in score_judgments(arguments.task, arguments.file, data, arguments.out, arguments.name):
            screen.show(run.record["tasks"][task.name], run.record["model"]["spec"], run.folder, console())
        return
    config = ScoreConfig(arguments.task, arguments.file, data, arguments.out, arguments.name, arguments.allow_unsafe_code)
    record, folder = score(config, Reporter(arguments.quiet))
    show(record, folder, console())
