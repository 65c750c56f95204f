"""`evalkit run`."""

import argparse

from evalkit.cli.options import SHARED, add_published, add_shared, given, with_data
from evalkit.cli.output import add_json, present
from evalkit.config import RunConfig, read_toml
from evalkit.errors import keeping_traceback
from evalkit.tasks.own import OwnSpec


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    run = commands.add_parser(
        "run",
        help="run a model on benchmarks under named protocols",
        description="Run a model on benchmarks. The same command again resumes the run.",
        examples=(
            "evalkit run --tasks mmlu,gsm8k",
            "evalkit run --tasks mmlu,gsm8k --model ./checkpoint --data DIR --limit 500",
            "evalkit run --tasks gsm8k@lm-eval,lm_eval:arc_easy --model Qwen/Qwen1.5-MoE-A2.7B",
            "evalkit run --tasks mmlu --quiet --json > run.json",
        ),
    )
    add_shared(run, *SHARED)
    run.add_argument("--config", metavar="run.toml", help="read these settings from a file; the command line takes precedence")
    add_published(run, default=None, help="that figures are shown beside (default: all tables)")
    add_json(run, "run.json")
    run.add_argument("--trackio", metavar="PROJECT", help="log the run as it goes into this project of trackio's local database")
    run.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    settings = (read_toml(arguments.config) if arguments.config else {}) | given(arguments, RunConfig)
    config = RunConfig(**{"tasks": ()} | with_data(settings))

    from evalkit.codec import encode
    from evalkit.progress import Reporter, console
    from evalkit.report.published import read_table
    from evalkit.report.screen import show, show_shard
    from evalkit.runner.run import run

    if arguments.published:
        read_table(arguments.published)  # a table with a mistake is refused before anything is computed
    live = None
    if arguments.trackio is not None:
        from evalkit.exchange.trackio import Live

        live = Live(arguments.trackio, config.quiet)
    reporter = live or Reporter(config.quiet)
    if config.is_demo:
        own = all(OwnSpec.parse(task) for task in config.tasks)
        what = "your own data" if own else "the bundled sample" if config.data_spec == "sample" else config.data_spec
        reporter.say(f"demo: SmolLM2-135M upcycled to a mixture of experts, on {what}; its figures do not compare with published ones")
    with keeping_traceback(config.folder):
        if live is None:
            record = run(config, reporter)
        else:
            about = {"model": config.model_spec.name, "engine": config.engine, "tasks": ",".join(config.tasks)}
            with live.run(config.run_name, about) as log_figures:
                record = run(config, reporter)
                log_figures(record)

    def screen() -> None:
        if record.shard:
            show_shard(record, config.folder, console())
        else:
            show(record, config.folder, console(), arguments.published)

    present(arguments, lambda: encode(record), screen)
    if arguments.json:
        reporter.say(f"written to {config.folder}")
    return 0
