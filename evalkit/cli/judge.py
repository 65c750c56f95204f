"""`evalkit judge`."""

import argparse
from pathlib import Path

from evalkit.cli.options import add_option, add_shared, given, reporter_of, with_data
from evalkit.errors import keeping_traceback
from evalkit.judge.config import KEY_VARIABLES, JudgeConfig
from evalkit.tasks import READERS


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    judge = commands.add_parser(
        "judge",
        help="a language model rates a run's answers",
        description=f"Judge a run, or go on judging it. The key is read from {' or '.join(KEY_VARIABLES)} and kept nowhere.",
    )
    judge.add_argument("run", metavar="RUN", type=Path, help="a run's folder, e.g. of --tasks mt_bench")

    def add(field: str, metavar: str, help: str, flag: str = "", required: bool = False) -> None:
        add_option(judge, JudgeConfig, field, help, flag, metavar=metavar, required=required)

    add("model", "NAME", "the judge, as its server knows it: gpt-4-0613", "--judge-model", required=True)
    add("url", "URL", "any OpenAI-compatible server", "--judge-url")
    add("snapshot", "NAME", "what its answers must name (default: NAME, or a dated form of it)", "--judge-snapshot")
    add("against", "RUN", "pairwise: is RUN's answer better than this run's? Both orders are asked")
    add_option(judge, JudgeConfig, "rating", "how ratings are read", choices=READERS)
    add("repeats", "K", "judge K times and print the judge's own spread")
    add_option(judge, JudgeConfig, "retry_failed", "ask again where a judgment failed or holds no rating")
    add("max_failed", "X", "share of judgments that a score may lack")
    add("concurrency", "N", "requests at a time")
    add("max_requests", "N", "stop before more requests than these, tries included, in all sessions")
    add("max_cost", "X", "stop before a judgment that might cost more than this, in all sessions")
    add("price_in", "X", "of a million prompt tokens")
    add("price_out", "X", "of a million completion tokens")
    add("temperature", "X", "of the judge")
    add("max_tokens", "N", "of a judgment")
    add("attempts", "N", "tries a judgment")
    add("backoff", "S", "seconds before a second try, doubled at each one")
    add("timeout", "S", "seconds a try may take")
    data = "where the judge prompts are: hub, sample, or a folder (default: EVALKIT_DATA, else as the run)"
    add_shared(judge, "data", "quiet", data=data)
    judge.set_defaults(command=_judge)


def _judge(arguments: argparse.Namespace) -> None:
    config = JudgeConfig(**with_data(given(arguments, JudgeConfig)))

    from evalkit.judge import result, screen
    from evalkit.judge.runner import judge
    from evalkit.progress import console
    from evalkit.record.schema import task_of

    with keeping_traceback(config.run):
        judged = judge(config, reporter_of(arguments))
    answered, folder = judged.answered, result.judgments_folder(judged.answered)
    if config.against:
        screen.show_pairs(result.write_pairs(config, judged), answered.run.model.spec, folder, console())
        return
    entry = result.write_single(config, judged).tasks[answered.task]
    screen.write_plots(type(answered.judged_task), {answered.model: entry}, folder)
    screen.show(entry, task_of(answered.task), answered.run.model.spec, folder, console())
