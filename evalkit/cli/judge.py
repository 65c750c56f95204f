"""`evalkit judge`."""

import argparse
import os
from dataclasses import fields
from pathlib import Path

from evalkit.judge.config import DEFAULTS, KEY_VARIABLES, JudgeConfig


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    judge = commands.add_parser(
        "judge",
        help="a language model grades a run's answers (MT-Bench)",
        description=f"Judge a run, or go on judging it. The key is read from {' or '.join(KEY_VARIABLES)} and kept nowhere.",
    )
    judge.add_argument("run_folder", metavar="RUN", type=Path, help="a run's folder, e.g. of --tasks mt_bench")
    judge.add_argument("--judge-model", dest="model", required=True, metavar="NAME", help="the judge, as its server knows it: gpt-4-0613")
    judge.add_argument("--judge-url", dest="url", metavar="URL", help=f"any OpenAI-compatible server (default: {DEFAULTS['url']})")
    judge.add_argument(
        "--judge-snapshot", dest="snapshot", metavar="NAME", help="what its answers must name (default: NAME, or a dated form of it)"
    )
    judge.add_argument(
        "--against", type=Path, metavar="RUN", help="pairwise: is RUN's answer better than this run's? Both orders are asked"
    )
    judge.add_argument("--data", help="where the judge prompts are: hub, sample, or a folder (default: EVALKIT_DATA, else as the run)")
    judge.add_argument("--rating", choices=("published", "strict"), help=f"how ratings are read (default: {DEFAULTS['rating']})")
    judge.add_argument("--repeats", type=int, metavar="K", help="judge K times and print the judge's own spread (default: 1)")
    judge.add_argument("--retry-failed", action="store_true", default=None, help="ask again where a judgment failed or holds no rating")
    judge.add_argument(
        "--max-failed", type=float, metavar="X", help=f"share of judgments that a score may lack (default: {DEFAULTS['max_failed']})"
    )
    judge.add_argument("--concurrency", type=int, metavar="N", help=f"requests at a time (default: {DEFAULTS['concurrency']})")
    judge.add_argument(
        "--max-requests", type=int, metavar="N", help="stop before more requests than these, tries included, in all sessions"
    )
    judge.add_argument("--max-cost", type=float, metavar="X", help="stop before a judgment that might cost more than this, in all sessions")
    judge.add_argument("--price-in", type=float, metavar="X", help="of a million prompt tokens")
    judge.add_argument("--price-out", type=float, metavar="X", help="of a million completion tokens")
    judge.add_argument("--temperature", type=float, help=f"of the judge (default: {DEFAULTS['temperature']:g})")
    judge.add_argument("--max-tokens", type=int, metavar="N", help=f"of a judgment (default: {DEFAULTS['max_tokens']})")
    judge.add_argument("--attempts", type=int, metavar="N", help=f"tries a judgment (default: {DEFAULTS['attempts']})")
    judge.add_argument("--backoff", type=float, metavar="S", help=f"seconds, doubled at each try (default: {DEFAULTS['backoff']:g})")
    judge.add_argument("--timeout", type=float, metavar="S", help=f"seconds a try may take (default: {DEFAULTS['timeout']:g})")
    judge.add_argument("--quiet", action="store_true", help="print the result only")
    judge.set_defaults(run=_judge)


def _judge(arguments: argparse.Namespace) -> None:
    given = {f.name: value for f in fields(JudgeConfig) if f.name != "run" and (value := getattr(arguments, f.name)) is not None}
    if "data" not in given and os.environ.get("EVALKIT_DATA"):
        given["data"] = os.environ["EVALKIT_DATA"]
    config = JudgeConfig(run=arguments.run_folder, **given)

    from evalkit.judge import result, screen
    from evalkit.judge.runner import judge
    from evalkit.progress import Reporter, console

    judged = judge(config, Reporter(arguments.quiet))
    answered, folder = judged.answered, result.fastchat_folder(judged.answered)
    if config.against:
        screen.show_pairs(result.write_pairs(config, judged), answered.record["model"]["spec"], folder, console())
        return
    entry = result.write_single(config, judged)["tasks"][answered.task]
    screen.write_plots({answered.model: entry}, folder)
    screen.show(entry, answered.record["model"]["spec"], folder, console())
