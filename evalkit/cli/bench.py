"""`evalkit bench`."""

import argparse

from evalkit.bench.config import MODELS, BenchConfig
from evalkit.cli.options import add_option, add_shared, given, reporter_of


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    bench = commands.add_parser(
        "bench",
        help="requests and tokens a second, beside published ones and this device's floor",
        description="Random prompts, all submitted at once, the end of text ignored: the blog's third table, on this device.",
    )
    bench.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=f"as --model of evalkit run, or random:CONFIG, random weights (default: {' '.join(MODELS)})",
    )
    add_option(bench, BenchConfig, "prompt_tokens", "tokens in, of each request", metavar="N")
    add_option(bench, BenchConfig, "output_tokens", "tokens out, of each request", metavar="N")
    add_option(bench, BenchConfig, "num_requests", "requests; so many take hours on a CPU", metavar="N")
    helps = {
        "engine": "native, lm_eval:CLASS, openai:URL",
        "seed": "of the random prompts",
        "out": "where bench.json is kept, in a folder a model",
    }
    add_shared(bench, "engine", "seed", "device", "dtype", "kernel", "out", "quiet", **helps)
    bench.set_defaults(command=_bench)


def _bench(arguments: argparse.Namespace) -> None:
    from evalkit.bench.bench import bench, show

    config = BenchConfig(**given(arguments, BenchConfig) | {"models": tuple(arguments.models) or MODELS})
    show(config, bench(config, reporter_of(arguments)))
