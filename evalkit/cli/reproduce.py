"""`evalkit reproduce`."""

import argparse
from functools import partial

from evalkit.cli.options import add_option, add_shared, given, reporter_of, with_data
from evalkit.cli.output import add_json, present
from evalkit.errors import keeping_traceback
from evalkit.reproduce.config import ReproduceConfig


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    reproduce = commands.add_parser(
        "reproduce",
        help="measure every figure of a published table that can be had here: plan, runs, report and verdicts",
        description="Measure the figures of a published table that can be had here, the cheapest first. The same command resumes.",
        examples=(
            "evalkit reproduce qwen2.5-coder --plan",
            "evalkit reproduce qwen2.5-coder",
            "evalkit reproduce smollm2 --budget 2",
        ),
    )
    reproduce.add_argument("table", metavar="TABLE", help="a published table (evalkit ls tables), or a .toml file")
    reproduce.add_argument("models", nargs="*", metavar="MODEL", help="models of the table, by name or slug (default: all)")
    add_option(reproduce, ReproduceConfig, "plan", "stop after the plan: what each figure takes on this device, or why it can't be had")
    add_json(reproduce, "the plan, and without --plan the measured figures,")
    add_option(reproduce, ReproduceConfig, "warm_up", "answer a few documents of each task before planning; --budget does so too")
    add_option(reproduce, ReproduceConfig, "budget", "measure the cheapest figures that fit into so many hours", metavar="HOURS")
    add_option(reproduce, ReproduceConfig, "judge_model", "the judge of judged benchmarks, as for evalkit judge", metavar="NAME")
    add_option(reproduce, ReproduceConfig, "judge_url", "address of its OpenAI-compatible server (default: OpenAI's)", metavar="URL")
    add_option(reproduce, ReproduceConfig, "out", "folder of all reproductions", metavar="DIR")
    helps = {
        "limit": "at most N documents per task, to try it out: no figure is then the benchmark's",
        "data": "data source: hub, sample, or a folder (default: EVALKIT_DATA, else hub)",
    }
    shared = ("limit", "data", "device", "dtype", "kernel", "allow_unsafe_code", "quiet")
    add_shared(reproduce, *shared, helps=helps)
    reproduce.set_defaults(command=_reproduce)


def _reproduce(arguments: argparse.Namespace) -> None:
    config = ReproduceConfig(**with_data(given(arguments, ReproduceConfig)) | {"models": tuple(arguments.models)})

    from evalkit.reproduce.reproduce import reproduce

    with keeping_traceback(config.folder):
        reproduce(config, reporter_of(arguments), partial(present, arguments))
