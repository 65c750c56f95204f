"""`evalkit run`."""

import argparse
from dataclasses import fields

from evalkit.cli.options import add_device
from evalkit.config import DEFAULTS, DEMO_MODEL, RunConfig, read_toml
from evalkit.errors import EvalkitError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the commands into the parser."""
    run = commands.add_parser("run", help="run a model on benchmarks under named protocols", description="Run, resume or re-score.")
    # no defaults here: what is left out comes from --config, then from RunConfig
    run.add_argument("--tasks", metavar="T[,T]", help="mmlu, gsm8k, or with a protocol: gsm8k@lm-eval (see evalkit ls tasks)")
    run.add_argument(
        "--model", metavar="SPEC", help=f"hub id, folder, .gguf file, or a name from evalkit ls models (default: {DEMO_MODEL})"
    )
    run.add_argument("--engine", help="native, lm_eval:hf, lm_eval:vllm, .., openai:URL, replay:RUN (default: native)")
    run.add_argument("--data", help="hub, sample, or a folder (default: EVALKIT_DATA, else hub; sample for the demo model)")
    run.add_argument(
        "--limit", type=int, metavar="N", help="at most N documents a task (of the multilingual suite: a cell), always the same ones"
    )
    run.add_argument("--seed", type=int, help=f"for sampled answers (default: {DEFAULTS['seed']})")
    run.add_argument("--temperature", type=float, help="for tasks that can be sampled (default: the protocol's; 0 is greedy)")
    run.add_argument("--repeats", type=int, metavar="N", help=f"answers a document, sampled (default: {DEFAULTS['repeats']})")
    run.add_argument("--allow-unsafe-code", action="store_true", default=None, help="run model-written code without a full sandbox")
    add_device(run, default=None)
    run.add_argument("--out", help=f"where runs are kept (default: {DEFAULTS['out']})")
    run.add_argument("--name", help="the run's folder (default: made of model, tasks, data and limit)")
    run.add_argument("--config", metavar="run.toml", help="the same settings from a file; the command line wins")
    run.add_argument("--fresh", action="store_true", default=None, help="start anew instead of resuming")
    run.add_argument("--quiet", action="store_true", default=None, help="print the result only")
    run.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    import os

    settings = read_toml(arguments.config) if arguments.config else {}
    given = {f.name: getattr(arguments, f.name) for f in fields(RunConfig) if getattr(arguments, f.name) is not None}
    if "tasks" in given:
        given["tasks"] = tuple(task.strip() for task in given["tasks"].split(",") if task.strip())
    settings |= given
    if "data" not in settings and os.environ.get("EVALKIT_DATA"):
        settings["data"] = os.environ["EVALKIT_DATA"]
    if not settings.get("tasks"):
        raise EvalkitError("no task given; try evalkit run --tasks mmlu,gsm8k")
    config = RunConfig(**settings)

    from evalkit.progress import Reporter, console
    from evalkit.report.screen import show
    from evalkit.runner.run import run

    reporter = Reporter(config.quiet)
    if config.is_demo:
        what = "the bundled sample" if config.data_spec == "sample" else config.data_spec
        reporter.say(f"demo: SmolLM2-135M upcycled to a mixture of experts, on {what}; its figures compare with nothing published")
    record = run(config, reporter)
    show(record, config.folder, console())
    return 0
