"""`evalkit fidelity`."""

import argparse
from pathlib import Path

from evalkit.cli.options import add_option, add_shared, given, reporter_of, with_data
from evalkit.cli.output import add_json, present
from evalkit.errors import keeping_traceback
from evalkit.fidelity.config import FidelityConfig

EXAMPLES = (
    "evalkit fidelity model-f32.gguf model-q8_0.gguf model-q4_k.gguf --tasks mmlu,gsm8k --limit 100 --out fidelity",
    "evalkit fidelity ./checkpoint ./checkpoint,dtype=bfloat16 --tasks mmlu",
    "evalkit fidelity ./checkpoint ./checkpoint-gptq model.gguf --tasks gsm8k --limit 50",
)


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    fidelity = commands.add_parser(
        "fidelity",
        help="measure what copies of a model cost: KL divergence, same top token, flips, score difference, size, speed",
        description="Run a reference and its copies over the prompts and answers of tasks, on the same tokens. "
        "Copies that --out holds are kept: the same command goes on, and one with more copies measures those. "
        "Explained in docs/fidelity.md.",
        examples=EXAMPLES,
    )
    model = "SPEC[,SETTING=VALUE..]"
    own = f"{model}: as --model of evalkit run, with an engine, device, dtype or kernel of its own"
    fidelity.add_argument("reference", metavar="REFERENCE", help=own)
    fidelity.add_argument("copies", nargs="+", metavar="COPY", help="the same for each copy, which has the reference's tokenizer")
    add_shared(fidelity, "tasks", required=True)
    helps = {
        "engine": "engine of the models that do not name their own; it must give whole distributions",
        "device": "their device (default: auto, a GPU if there is one)",
        "dtype": "their precision of weights and activations (default: auto, float32 on a CPU and bfloat16 on a GPU)",
        "kernel": "their kernels (default: auto)",
        "data": "data source: hub, sample, or a folder (default: EVALKIT_DATA, else hub)",
    }
    add_shared(fidelity, "limit", "data", "engine", "device", "dtype", "kernel", "chat_template_args", "allow_unsafe_code", helps=helps)
    add_option(fidelity, FidelityConfig, "out", "folder for fidelity.json, .md and .html and the plot of divergence by size", metavar="DIR")
    add_option(fidelity, FidelityConfig, "fresh", "measure again what --out holds")
    add_json(fidelity, "fidelity.json")
    add_shared(fidelity, "quiet")
    fidelity.set_defaults(command=_fidelity)


def _fidelity(arguments: argparse.Namespace) -> None:
    config = FidelityConfig(**with_data(given(arguments, FidelityConfig)) | {"copies": tuple(arguments.copies)})

    from evalkit.codec import encode
    from evalkit.fidelity.fidelity import fidelity
    from evalkit.fidelity.screen import show, write
    from evalkit.progress import console

    out = None if config.out is None else Path(config.out)
    with keeping_traceback(out):
        record = fidelity(config, reporter_of(arguments))
        if out is not None:
            write(record, out)
    present(arguments, lambda: encode(record), lambda: show(record, console()))
    if out is not None:
        print(f"written to {out}: fidelity.json, fidelity.md, fidelity.html and the plot")
