"""`evalkit upcycle`."""

import argparse
from pathlib import Path

from evalkit.cli.options import add_option, add_shared, given, reporter_of
from evalkit.config import FLOATS
from evalkit.lm.upcycle import RECIPES, Recipe


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    upcycle = commands.add_parser(
        "upcycle",
        help="convert a dense model to a mixture of experts",
        description="Convert a dense model to a Qwen2-MoE folder.",
        examples=("evalkit upcycle qwen2.5-coder-0.5b ./moe --experts 16 --top-k 4 --recipe qwen",),
    )
    upcycle.add_argument("source", metavar="SOURCE", help="a dense model, given as --model of evalkit run")
    upcycle.add_argument("dest", metavar="DEST", type=Path, help="folder to write, new or empty")
    add_option(
        upcycle,
        Recipe,
        "name",
        "preserve keeps the function; qwen is Qwen1.5-MoE's recipe; drop is Drop-Upcycling",
        "--recipe",
        choices=RECIPES,
    )
    add_option(upcycle, Recipe, "experts", "number of routed experts", metavar="N")
    add_option(upcycle, Recipe, "top_k", "routed experts per token", metavar="K")
    width = "width of an expert (default: the dense FFN's width / shared, rounded to 64s; for preserve, 64)"
    add_option(upcycle, Recipe, "expert_size", width, metavar="N")
    add_option(upcycle, Recipe, "shared", "width of the shared expert, in experts; not for preserve (default: 4)", metavar="N")
    add_option(upcycle, Recipe, "noise", "share of each expert that is re-initialised; not for preserve (default: 0.5)", metavar="X")
    add_option(upcycle, Recipe, "seed", "seed of the random weights", metavar="N")
    upcycle.add_argument(
        "--dtype", choices=("auto", *FLOATS), default="auto", help="precision of the result (default: auto, the source's own)"
    )
    add_shared(upcycle, "quiet")
    upcycle.set_defaults(command=_upcycle)


def _upcycle(arguments: argparse.Namespace) -> None:
    from evalkit.lm.upcycle import upcycle

    recipe = Recipe(**given(arguments, Recipe))
    print(upcycle(arguments.source, arguments.dest, recipe, arguments.dtype, reporter_of(arguments)))
