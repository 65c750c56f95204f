"""`evalkit score`."""

import argparse
from pathlib import Path

from evalkit.cli.options import add_published, add_shared, given, reporter_of, with_data
from evalkit.cli.output import SCHEMA, add_json, present
from evalkit.errors import EvalkitError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    score = commands.add_parser(
        "score",
        help="score answers made elsewhere",
        description="Score a file of answers as a run. No model is loaded.",
        examples=(
            "evalkit score humaneval samples.jsonl",
            "evalkit score gsm8k@lm-eval answers.jsonl --data DIR --name theirs",
            "evalkit score mt_bench gpt-4_single.jsonl",
        ),
    )
    score.add_argument(
        "task",
        metavar="TASK",
        help="humaneval, gsm8k, mmlu, mt_bench or another; a protocol (humaneval@codex) reads the answers as it does its own",
    )
    score.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        help="lines or a list of {task_id, completion}, {id or question, answer}, or FastChat's judgments; .gz too",
    )
    helps = {
        "data": "data source: hub, sample, or a folder (default: EVALKIT_DATA, else hub)",
        "name": "name of the run's folder (default: made from the file's name and the task)",
    }
    add_shared(score, "data", "out", "name", "allow_unsafe_code", "quiet", helps=helps)
    add_published(score, default=None, help="that figures are shown beside (default: all tables)")
    add_json(score, "run.json")
    score.set_defaults(command=_score)


def _score(arguments: argparse.Namespace) -> None:
    from evalkit.codec import encode
    from evalkit.progress import console
    from evalkit.report.published import read_table
    from evalkit.report.screen import show
    from evalkit.runner.score_file import ScoreConfig, score
    from evalkit.tasks import JudgedTask
    from evalkit.tasks.registry import task_classes

    if arguments.published:
        read_table(arguments.published)  # a table with a mistake is refused before anything is scored
    config = ScoreConfig(**with_data(given(arguments, ScoreConfig)))
    if (task := task_classes().get(arguments.task.partition("@")[0])) and issubclass(task, JudgedTask):
        from evalkit.judge import screen
        from evalkit.judge.given import score_judgments

        runs, refused = score_judgments(config.task, config.file, config.data, Path(config.out), config.name)

        def show_all() -> None:
            for judged in runs:
                screen.show(judged.run.tasks[task.name], task.name, judged.run.model.spec, judged.folder, console())

        document = {"schema": SCHEMA, "kind": "runs", "runs": [encode(judged.run) for judged in runs]}
        present(arguments, lambda: document, show_all)
        if refused:
            raise EvalkitError(f"{config.file}: {'; '.join(refused)}")
        return
    record, folder = score(config, reporter_of(arguments))
    present(arguments, lambda: encode(record), lambda: show(record, folder, console(), arguments.published))
