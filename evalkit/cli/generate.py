"""`evalkit generate`."""

import argparse

from evalkit.cli.options import MODEL, add_option, add_shared, given, model_of, reporter_of
from evalkit.lm.generate import GenerateConfig


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    generate = commands.add_parser(
        "generate",
        help="complete one prompt",
        description="Complete one prompt with the native engine.",
        examples=('evalkit generate --model qwen2.5-coder-0.5b --chat --prompt "Name a colour."',),
    )
    add_option(generate, GenerateConfig, "prompt", "the prompt, or - for standard input", metavar="TEXT", required=True)
    add_option(generate, GenerateConfig, "chat", "format the prompt with the model's chat template")
    add_option(generate, GenerateConfig, "system", "system message (default: the chat template's)", metavar="TEXT")
    add_option(generate, GenerateConfig, "max_new_tokens", "maximum length of the answer, in tokens", metavar="N")
    add_option(generate, GenerateConfig, "temperature", "sampling temperature; 0 is greedy", metavar="X")
    add_option(generate, GenerateConfig, "seed", "seed of the sampling", metavar="N")
    add_shared(generate, *MODEL, "chat_template_args", "quiet")
    generate.set_defaults(command=_generate)


def _generate(arguments: argparse.Namespace) -> None:
    from evalkit.lm.generate import generate

    config = GenerateConfig(**given(arguments, GenerateConfig) | {"model": model_of(arguments)})
    generate(config, reporter_of(arguments))
