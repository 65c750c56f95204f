"""`evalkit bench`."""

import argparse

from evalkit.cli.options import add_device


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
        help="as --model of evalkit run, or random:CONFIG, random weights (default: random:qwen1.5-moe-a2.7b random:qwen1.5-7b)",
    )
    bench.add_argument("--engine", default="native", help="native, lm_eval:CLASS, openai:URL (default: native)")
    bench.add_argument("--prompt-tokens", type=int, default=1000, metavar="N", help="(default: %(default)s)")
    bench.add_argument("--output-tokens", type=int, default=1000, metavar="N", help="(default: %(default)s)")
    bench.add_argument("--num-requests", type=int, default=1000, metavar="N", help="(default: %(default)s, hours on a CPU)")
    bench.add_argument("--seed", type=int, default=0, help="of the random prompts (default: %(default)s)")
    add_device(bench)
    bench.add_argument("--out", default="results/runs", help="where bench.json is kept, in a folder a model (default: %(default)s)")
    bench.add_argument("--quiet", action="store_true", help="print the result only")
    bench.set_defaults(run=_bench)


def _bench(arguments: argparse.Namespace) -> None:
    from evalkit.bench.bench import MODELS, BenchConfig, bench, show
    from evalkit.progress import Reporter

    names = ("engine", "prompt_tokens", "output_tokens", "num_requests", "seed", "device", "dtype", "kernel", "out")
    config = BenchConfig(tuple(arguments.models) or MODELS, **{name: getattr(arguments, name) for name in names})
    show(config, bench(config, Reporter(arguments.quiet)))
