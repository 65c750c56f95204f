"""`evalkit upcycle`."""

import argparse
from pathlib import Path

from evalkit.cli.options import add_option, add_shared, given, reporter_of
from evalkit.lm.upcycle import RECIPES, Recipe


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    upcycle = commands.add_parser("upcycle", help="a dense model into a Qwen2-MoE folder", description="Make a mixture of experts.")
    upcycle.add_argument("source", metavar="SOURCE", help="a dense model, as --model of evalkit run")
    upcycle.add_argument("dest", metavar="DEST", type=Path, help="the folder to write; new or empty")
    add_option(upcycle, Recipe, "name", "the same function, Qwen1.5-MoE's, Drop-Upcycling", "--recipe", choices=RECIPES)
    add_option(upcycle, Recipe, "experts", "routed experts", metavar="N")
    add_option(upcycle, Recipe, "top_k", "experts a token visits", metavar="K")
    width = "an expert's width (default: the dense FFN's / shared, in 64s; preserve: 64)"
    add_option(upcycle, Recipe, "expert_size", width, metavar="N")
    add_option(upcycle, Recipe, "shared", "the shared expert's width, in experts (default: 4; not for preserve)", metavar="N")
    add_option(upcycle, Recipe, "noise", "share of each expert that is drawn anew (default: 0.5; not for preserve)", metavar="X")
    add_option(upcycle, Recipe, "seed", "of what is drawn", metavar="N")
    add_shared(upcycle, "dtype", "quiet", dtype="of the result (default: the source's)")
    upcycle.set_defaults(command=_upcycle)


def _upcycle(arguments: argparse.Namespace) -> None:
    from evalkit.lm.upcycle import upcycle

    recipe = Recipe(**given(arguments, Recipe))
    print(upcycle(arguments.source, arguments.dest, recipe, getattr(arguments, "dtype", "auto"), reporter_of(arguments)))
