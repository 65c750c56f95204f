"""`evalkit bench`."""

import argparse

from evalkit.bench.config import MODELS, BenchConfig
from evalkit.cli.options import add_option, add_shared, given, reporter_of
from evalkit.cli.output import SCHEMA, add_json, present


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    bench = commands.add_parser(
        "bench",
        help="measure requests and tokens per second, beside the published figures and this device's roofline",
        description="Measure throughput as the blog's third table does: random prompts, all submitted at once, end of text ignored.",
        examples=(
            "evalkit bench random:qwen1.5-moe-a2.7b random:qwen1.5-7b",
            "evalkit bench qwen2.5-coder-0.5b --prompt-tokens 100 --output-tokens 50 --num-requests 8",
        ),
    )
    bench.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=f"as --model of evalkit run; random:CONFIG has random weights (default: {' '.join(MODELS)})",
    )
    add_option(bench, BenchConfig, "prompt_tokens", "input tokens of each request", metavar="N")
    add_option(bench, BenchConfig, "output_tokens", "output tokens of each request", metavar="N")
    add_option(bench, BenchConfig, "num_requests", "number of requests; the default takes hours on a CPU", metavar="N")
    add_option(bench, BenchConfig, "repeats", "time each model so often, taking turns; figures are medians", metavar="N")
    helps = {
        "engine": "native, llama_cpp, lm_eval:CLASS or openai:URL",
        "seed": "seed of the random prompts",
        "out": "folder for the results; each model gets a subfolder with bench.json",
    }
    add_shared(bench, "engine", "seed", "device", "dtype", "kernel", "out", "quiet", helps=helps)
    add_json(bench, "all bench.json")
    bench.set_defaults(command=_bench)


def _bench(arguments: argparse.Namespace) -> None:
    from evalkit.bench.bench import bench, show
    from evalkit.codec import encode

    config = BenchConfig(**given(arguments, BenchConfig) | {"models": tuple(arguments.models) or MODELS})
    records = bench(config, reporter_of(arguments))
    document = {"schema": SCHEMA, "kind": "bench", "bench": encode(records)}
    present(arguments, lambda: document, lambda: show(config, records))
