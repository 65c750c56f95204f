"""`evalkit serve`."""

import argparse

from evalkit.cli.options import MODEL, add_option, add_shared, given, model_of, reporter_of
from evalkit.serve import KEY_VARIABLE, ServeConfig


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    serve = commands.add_parser(
        "serve",
        help="serve a model over an OpenAI-compatible API",
        description="Serve a model over an OpenAI-compatible API at /v1.",
        examples=(
            "evalkit serve --model qwen2.5-coder-0.5b",
            "evalkit serve --model ./model --host 0.0.0.0 --port 8080 --max-model-len 4096",
        ),
    )
    name = "the model's name for clients (default: made from its SPEC); formerly --name"
    add_option(serve, ServeConfig, "name", name, "--served-model-name", "--name", metavar="NAME")
    add_option(serve, ServeConfig, "host", "address to listen on", metavar="ADDRESS")
    add_option(serve, ServeConfig, "port", "port to listen on; 0 takes any free one", metavar="N")
    add_option(
        serve,
        ServeConfig,
        "kv_memory",
        "memory for keys and values, such as 2GB; longer conversations are refused (default: half of what is free after loading)",
        metavar="SIZE",
    )
    add_option(serve, ServeConfig, "max_model_len", "longest prompt and answer together, in tokens (default: the model's)", metavar="N")
    add_option(
        serve,
        ServeConfig,
        "api_key",
        f"environment variable that holds the key which clients have to send (default: {KEY_VARIABLE}, if it is set)",
        metavar="VARIABLE",
        nargs="?",
        const=KEY_VARIABLE,
    )
    add_option(
        serve,
        ServeConfig,
        "allow_host",
        "names that the Host header may have besides localhost and the loopback addresses; on another address any may come by default",
        metavar="HOST[,HOST]",
    )
    add_option(
        serve, ServeConfig, "cors", "origins of web pages that may read answers; * is any (default: none)", metavar="ORIGIN[,ORIGIN]"
    )
    add_shared(serve, *MODEL, "chat_template_args")
    serve.set_defaults(command=_serve)


def _serve(arguments: argparse.Namespace) -> None:
    from evalkit.serve import serve

    serve(ServeConfig(**given(arguments, ServeConfig) | {"model": model_of(arguments)}), reporter_of(arguments))
