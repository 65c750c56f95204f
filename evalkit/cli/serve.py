"""`evalkit serve`."""

import argparse

from evalkit.cli.options import MODEL, add_option, add_shared, given, model_of, reporter_of
from evalkit.serve import ServeConfig


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    serve = commands.add_parser("serve", help="an OpenAI-compatible server", description="Serve a model at /v1, OpenAI's way.")
    add_option(serve, ServeConfig, "name", "what clients call the model (default: made of its SPEC)", metavar="NAME")
    add_option(serve, ServeConfig, "host", "the address to listen on; there is no key", metavar="ADDRESS")
    add_option(serve, ServeConfig, "port", "0: any free one", metavar="N")
    add_shared(serve, *MODEL)
    serve.set_defaults(command=_serve)


def _serve(arguments: argparse.Namespace) -> None:
    from evalkit.serve import serve

    serve(ServeConfig(**given(arguments, ServeConfig) | {"model": model_of(arguments)}), reporter_of(arguments))
