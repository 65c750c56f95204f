"""`evalkit judge`."""

import argparse
from pathlib import Path

from evalkit.cli.options import add_option, add_shared, given, reporter_of, with_data
from evalkit.cli.output import SCHEMA, add_json, present
from evalkit.errors import keeping_traceback
from evalkit.judge.config import KEY_VARIABLES, JudgeConfig
from evalkit.tasks import READERS


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    judge = commands.add_parser(
        "judge",
        help="have a language model rate a run's answers",
        description=f"Rate a run's answers, or resume doing so. The key is read from {' or '.join(KEY_VARIABLES)} and not stored.",
        examples=(
            "evalkit judge results/runs/mtb --judge-model gpt-4-0613 --max-cost 20 --price-in 30 --price-out 60",
            "evalkit judge results/runs/mtb --judge-model gpt-4-0613 --against results/runs/base",
        ),
    )
    judge.add_argument("run", metavar="RUN", type=Path, help="a run's folder, for example of --tasks mt_bench")

    def add(field: str, metavar: str, help: str, flag: str = "", required: bool = False) -> None:
        add_option(judge, JudgeConfig, field, help, flag, metavar=metavar, required=required)

    add("model", "NAME", "name of the judge on its server, such as gpt-4-0613", "--judge-model", required=True)
    add("url", "URL", "address of any OpenAI-compatible server", "--judge-url")
    add("snapshot", "NAME", "model name that its responses must carry (default: NAME, with or without a date)", "--judge-snapshot")
    add("against", "RUN", "compare pairwise with the answers of this other run, in both orders")
    add_option(judge, JudgeConfig, "rating", "how ratings are read from the judge's text", choices=READERS)
    add("repeats", "K", "rate each answer K times and print the spread")
    add_option(judge, JudgeConfig, "retry_failed", "repeat judgments that failed or hold no rating")
    add("max_failed", "X", "largest share of judgments that a score may lack")
    add("concurrency", "N", "number of concurrent requests")
    add("max_requests", "N", "stop before more requests than this, retries included, over all sessions")
    add("max_cost", "X", "stop before the cost over all sessions may exceed this")
    add("price_in", "X", "price of a million prompt tokens")
    add("price_out", "X", "price of a million completion tokens")
    add("temperature", "X", "sampling temperature of the judge")
    add("max_tokens", "N", "maximum length of a judgment, in tokens")
    add("attempts", "N", "attempts for each judgment")
    add("backoff", "S", "seconds before the second attempt, doubled for each one after it")
    add("timeout", "S", "seconds that one attempt may take")
    data = "source of the judge prompts: hub, sample, or a folder (default: EVALKIT_DATA, else that of the run)"
    code = "run the Python file that the run's task is of"
    add_shared(judge, "data", "allow_task_code", "quiet", helps={"data": data, "allow_task_code": code})
    add_json(judge, "run.json, or the pairwise comparison of --against,")
    judge.set_defaults(command=_judge)


def _judge(arguments: argparse.Namespace) -> None:
    config = JudgeConfig(**with_data(given(arguments, JudgeConfig)))

    from evalkit.codec import encode
    from evalkit.judge import result, screen
    from evalkit.judge.runner import judge
    from evalkit.progress import console
    from evalkit.record.schema import task_of

    with keeping_traceback(config.run):
        judged = judge(config, reporter_of(arguments))
    answered, folder = judged.answered, result.judgments_folder(judged.answered)
    if config.against:
        pairs = result.write_pairs(config, judged)
        document = {"schema": SCHEMA, "kind": "pairwise", "task": answered.task, **encode(pairs)}
        present(arguments, lambda: document, lambda: screen.show_pairs(pairs, answered.run.model.spec, folder, console()))
        return
    run = result.write_single(config, judged)
    entry = run.tasks[answered.task]
    screen.write_plots(type(answered.judged_task), {answered.model: entry}, folder)
    present(arguments, lambda: encode(run), lambda: screen.show(entry, task_of(answered.task), answered.run.model.spec, folder, console()))
