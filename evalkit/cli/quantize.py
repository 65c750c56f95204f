"""`evalkit quantize`."""

import argparse
from pathlib import Path

from evalkit.cli.options import add_shared, reporter_of
from evalkit.lm.quantize import FORMATS

EXAMPLES = (
    "evalkit quantize ./Qwen2.5-0.5B qwen.gguf --format gguf:q4_k",
    "evalkit quantize org/repo@REVISION model.gguf --format gguf:bf16",
    "evalkit quantize model-f16.gguf model-q8.gguf --format gguf:q8_0",
    "evalkit quantize ./Qwen1.5-MoE-A2.7B ./moe-int4 --format gptq-int4",
)


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    quantize = commands.add_parser(
        "quantize",
        help="write a model as GGUF or GPTQ, quantised or not",
        description="Write a model as one GGUF file for llama.cpp, or as a folder of int4 weights in GPTQ's layout; either runs here too.",
        examples=EXAMPLES,
    )
    quantize.add_argument("source", metavar="SOURCE", help="a model, given as --model of evalkit run")
    quantize.add_argument("dest", metavar="DEST", type=Path, help="file to write (gguf:..), or folder, new or empty (gptq-int4)")
    quantize.add_argument("--format", metavar="FORMAT", required=True, help=f"one of: {', '.join(FORMATS)}")
    add_shared(quantize, "quiet")
    quantize.set_defaults(command=_quantize)


def _quantize(arguments: argparse.Namespace) -> None:
    from evalkit.lm.quantize import quantize

    print(quantize(arguments.source, arguments.dest, arguments.format, reporter_of(arguments)))
