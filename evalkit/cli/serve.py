"""`evalkit serve`."""

import argparse
from dataclasses import fields

from evalkit.cli.options import add_device, model_of
from evalkit.config import DEMO_MODEL
from evalkit.serve import ServeConfig


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    defaults = {f.name: f.default for f in fields(ServeConfig)}
    serve = commands.add_parser("serve", help="an OpenAI-compatible server", description="Serve a model at /v1, OpenAI's way.")
    serve.add_argument("--model", metavar="SPEC", help=f"as for evalkit run (default: {DEMO_MODEL})")
    serve.add_argument("--name", help="what clients call the model (default: made of its SPEC)")
    serve.add_argument("--host", default=defaults["host"], help="the address to listen on; there is no key (default: %(default)s)")
    serve.add_argument("--port", type=int, default=defaults["port"], help="0: any free one (default: %(default)s)")
    add_device(serve)
    serve.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> None:
    from evalkit.progress import Reporter
    from evalkit.serve import serve

    serve(ServeConfig(**{f.name: getattr(arguments, f.name) for f in fields(ServeConfig)} | {"model": model_of(arguments)}), Reporter())
