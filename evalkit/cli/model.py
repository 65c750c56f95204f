"""`evalkit generate` and `evalkit upcycle`: a model by itself."""

import argparse
from dataclasses import fields
from pathlib import Path

from evalkit.cli.options import add_device, model_of
from evalkit.config import DEMO_MODEL, DTYPES
from evalkit.lm.generate import GenerateConfig
from evalkit.lm.upcycle import RECIPES, Recipe


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the commands into the parser."""
    defaults = {f.name: f.default for f in fields(GenerateConfig)}
    generate = commands.add_parser("generate", help="one prompt, one answer", description="What does the model answer to this prompt?")
    generate.add_argument("--model", metavar="SPEC", help=f"as for evalkit run (default: {DEMO_MODEL})")
    generate.add_argument("--prompt", required=True, metavar="TEXT", help="the prompt; - reads it from standard input")
    generate.add_argument("--chat", action="store_true", help="write the prompt as a conversation, by the model's chat template")
    generate.add_argument("--system", metavar="TEXT", help="system message (default: the chat template's own)")
    generate.add_argument("--max-new-tokens", type=int, metavar="N", default=defaults["max_new_tokens"], help="(default: %(default)s)")
    generate.add_argument("--temperature", type=float, default=defaults["temperature"], help="0 is greedy (default: %(default)s)")
    generate.add_argument("--seed", type=int, default=defaults["seed"], help="for a sampled answer (default: %(default)s)")
    add_device(generate)
    generate.set_defaults(run=_generate)

    recipe = {f.name: f.default for f in fields(Recipe)}
    upcycle = commands.add_parser("upcycle", help="a dense model into a Qwen2-MoE folder", description="Make a mixture of experts.")
    upcycle.add_argument("source", metavar="SOURCE", help="a dense model, as --model of evalkit run")
    upcycle.add_argument("dest", metavar="DEST", type=Path, help="the folder to write; new or empty")
    upcycle.add_argument(
        "--recipe",
        dest="name",
        choices=RECIPES,
        default="qwen",
        help="the same function, Qwen1.5-MoE's, Drop-Upcycling (default: %(default)s)",
    )
    upcycle.add_argument("--experts", type=int, metavar="N", default=recipe["experts"], help="routed experts (default: %(default)s)")
    upcycle.add_argument("--top-k", type=int, metavar="K", default=recipe["top_k"], help="experts a token visits (default: %(default)s)")
    upcycle.add_argument(
        "--expert-size",
        type=int,
        metavar="N",
        help="an expert's width (default: the dense FFN's / shared, in 64s; preserve: 64)",
    )
    upcycle.add_argument("--shared", type=int, metavar="N", help="the shared expert's width, in experts (default: 4; not for preserve)")
    upcycle.add_argument("--noise", type=float, help="share of each expert that is drawn anew (default: 0.5; not for preserve)")
    upcycle.add_argument("--seed", type=int, default=recipe["seed"], help="(default: %(default)s)")
    upcycle.add_argument("--dtype", choices=DTYPES, default="auto", help="of the result (default: the source's)")
    upcycle.add_argument("--quiet", action="store_true", help="print the result only")
    upcycle.set_defaults(run=_upcycle)


def _generate(arguments: argparse.Namespace) -> None:
    from evalkit.lm.generate import generate
    from evalkit.progress import Reporter

    config = GenerateConfig(**{f.name: getattr(arguments, f.name) for f in fields(GenerateConfig)} | {"model": model_of(arguments)})
    generate(config, Reporter())


def _upcycle(arguments: argparse.Namespace) -> None:
    from evalkit.lm.upcycle import upcycle
    from evalkit.progress import Reporter

    recipe = Recipe(**{f.name: getattr(arguments, f.name) for f in fields(Recipe)})
    print(upcycle(arguments.source, arguments.dest, recipe, arguments.dtype, Reporter(arguments.quiet)))
