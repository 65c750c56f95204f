"""The command line. Names and exit codes are a contract: 0 fine, 2 wrong use or bad input, 4 the run ended incomplete.

Heavy imports happen inside the commands: `evalkit --help` answers at once.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from evalkit import __version__
from evalkit.config import DEMO_MODEL, DEVICES, DTYPES, RunConfig, read_toml
from evalkit.errors import EvalkitError

DEFAULTS = {f.name: f.default for f in fields(RunConfig)}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for all other bad input."""
        print(f"evalkit: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except EvalkitError as error:
        print(f"evalkit: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("evalkit: interrupted before the run began; nothing was lost", file=sys.stderr)
        return 4
    except BrokenPipeError:  # `evalkit ls tasks | head`
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="evalkit", description="Does this model really score what its table says?")
    parser.add_argument("--version", action="version", version=f"evalkit {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    run = commands.add_parser("run", help="run a model on benchmarks under named protocols", description="Run, resume or re-score.")
    # no defaults here: what is left out comes from --config, then from RunConfig
    run.add_argument("--tasks", metavar="T[,T]", help="mmlu, gsm8k, or with a protocol: gsm8k@lm-eval (see evalkit ls tasks)")
    run.add_argument(
        "--model", metavar="SPEC", help=f"hub id, folder, .gguf file, or a name from evalkit ls models (default: {DEMO_MODEL})"
    )
    run.add_argument("--engine", help="native, lm_eval:hf, lm_eval:vllm, .., replay:RUN (default: native)")
    run.add_argument("--data", help="hub, sample, or a folder (default: EVALKIT_DATA, else hub; sample for the demo model)")
    run.add_argument("--limit", type=int, metavar="N", help="at most N documents a task, spread over its subjects, always the same ones")
    run.add_argument("--seed", type=int, help=f"for sampled answers (default: {DEFAULTS['seed']})")
    run.add_argument("--device", choices=DEVICES, help=f"(default: {DEFAULTS['device']})")
    run.add_argument("--dtype", choices=DTYPES, help="(default: float32 on cpu, bfloat16 on cuda)")
    run.add_argument("--out", help=f"where runs are kept (default: {DEFAULTS['out']})")
    run.add_argument("--name", help="the run's folder (default: made of model, tasks, data and limit)")
    run.add_argument("--config", metavar="run.toml", help="the same settings from a file; the command line wins")
    run.add_argument("--fresh", action="store_true", default=None, help="start anew instead of resuming")
    run.add_argument("--quiet", action="store_true", default=None, help="print the result only")
    run.set_defaults(run=_run)

    ls = commands.add_parser("ls", help="list tasks, protocols, models or runs")
    ls.add_argument("what", choices=("tasks", "protocols", "models", "runs"))
    ls.add_argument("--out", default=DEFAULTS["out"], help="where runs are kept")
    ls.set_defaults(run=_ls)

    data = commands.add_parser("data", help="what benchmark data is at hand, and is it the real thing?")
    data.add_argument("action", choices=("status", "fetch", "verify"))
    data.add_argument("tasks", nargs="*", metavar="TASK")
    data.add_argument("--data", help="hub, sample, or a folder (default: EVALKIT_DATA, else sample)")
    data.set_defaults(run=_data)

    report = commands.add_parser("report", help="a published table beside what runs measured: markdown and CSV")
    report.add_argument("runs", nargs="*", metavar="RUN", help="a run's folder or run.json")
    report.add_argument("--published", default="qwen1.5-moe", help="the published table (default: qwen1.5-moe)")
    report.add_argument("--out", metavar="DIR", help="write NAME.md and NAME.csv there; without it the markdown goes to standard output")
    report.set_defaults(run=_report)
    return parser


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

    from rich.console import Console

    from evalkit.progress import Reporter
    from evalkit.report.screen import show
    from evalkit.runner import run

    reporter = Reporter(config.quiet)
    if config.is_demo:
        what = "the bundled sample" if config.data_spec == "sample" else config.data_spec
        reporter.say(f"demo: SmolLM2-135M upcycled to a mixture of experts, on {what}; its figures compare with nothing published")
    record = run(config, reporter)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    show(record, config.folder, console)
    return 0


def _ls(arguments: argparse.Namespace) -> None:
    from evalkit import listing

    listing.SHOW[arguments.what](Path(arguments.out))


def _data(arguments: argparse.Namespace) -> int:
    import os

    from evalkit import listing

    spec = arguments.data or os.environ.get("EVALKIT_DATA") or "sample"
    return listing.DATA[arguments.action](spec, arguments.tasks)


def _report(arguments: argparse.Namespace) -> None:
    from evalkit.record import read_run, write_atomically
    from evalkit.report.ledger import read_table
    from evalkit.report.table import lines, to_csv, to_markdown

    table = read_table(arguments.published)
    found = lines(table, [read_run(run) for run in arguments.runs])
    if not arguments.out:
        print(to_markdown(table, found))
        return
    out = Path(arguments.out)
    write_atomically(out / f"{table.name}.md", [to_markdown(table, found)])
    write_atomically(out / f"{table.name}.csv", [to_csv(found)])
    print(f"wrote {out / table.name}.md and .csv: {len(found)} figures")
