"""`evalkit serve`: the native engine behind an OpenAI-compatible API.

A request -> connection.py, access.py (who may ask, how much) -> bodies.py, messages.py (what is asked) -> app.py, completions.py
-> encoder.py (texts to tokens) -> dispatcher.py (one thread, which runs all requests in flight) -> the engine -> stream.py, logprobs.py

Limits: one model, one device; no penalties, logit_bias, response_format or parsed tool calls (refused, never ignored). Without a key any
client that reaches the address may ask.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.config import DEMO, ModelSpec
from evalkit.errors import EvalkitError, pip_install
from evalkit.serve.sizes import bytes_of

if TYPE_CHECKING:
    from evalkit.lm.native import NativeLM
    from evalkit.progress import Reporter


KEY_VARIABLE = "EVALKIT_API_KEY"


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """One `evalkit serve`; port 0 takes any free one. `name`: the model's name for clients (None: made from its SPEC).

    `kv_memory`: the memory for keys and values, such as "2GB" (None: half of what is free once the weights are read).
    `max_model_len`: the longest prompt and answer in tokens (None: the model's). `api_key`: the environment variable that holds the key
    which clients have to send (None: EVALKIT_API_KEY, if it is set). `allow_host`, `cors`: see `evalkit.serve.access`.
    """

    model: ModelSpec = DEMO
    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    kv_memory: str | None = None
    max_model_len: int | None = None
    api_key: str | None = None
    allow_host: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kv_memory is not None:
            bytes_of(self.kv_memory, "--kv-memory")
        if not 0 <= self.port <= 65535:
            raise EvalkitError(f"--port is {self.port}; give 0 (any free one) to 65535")

    @property
    def key(self) -> str | None:
        """The key itself. Raises EvalkitError for a variable that is named and not set."""
        key = os.environ.get(self.api_key or KEY_VARIABLE)
        if not key and self.api_key is not None:
            raise EvalkitError(
                f"--api-key names the environment variable {self.api_key!r}, which is not set; export the key in it "
                "(on the command line other users could read it)"
            )
        if key and not (key.isascii() and key.isprintable() and key == key.strip()):
            raise EvalkitError(f"the API key in {self.api_key or KEY_VARIABLE} holds characters that no header can; is there a line end?")
        return key or None

    @property
    def served_name(self) -> str:
        """A hub id or a name unchanged; of a path, its last part."""
        spec = self.name or self.model.name
        is_path = not self.name and (spec.endswith(".gguf") or spec.startswith((".", "/", "~")))
        return re.sub(r"\.gguf$", "", Path(spec).expanduser().resolve().name) if is_path else spec


def serve(config: ServeConfig, reporter: Reporter) -> None:
    """Load the model and answer requests until Ctrl-C. Raises EvalkitError if the address or the model is not available."""
    try:
        from evalkit.serve.access import Access, guarded
        from evalkit.serve.app import make_app
        from evalkit.serve.connection import server_of
    except ImportError as error:
        raise EvalkitError(f"evalkit serve needs {error.name}; run {pip_install('serve')}") from None
    from evalkit.lm.native import NativeLM

    access = Access(config.key, config.host, config.allow_host, config.cors)
    try:  # before the model is loaded, which may take minutes
        listening = socket.create_server((config.host, config.port), family=socket.AF_INET6 if ":" in config.host else socket.AF_INET)
    except OSError as error:
        raise EvalkitError(f"cannot listen on {config.host} port {config.port}: {error.strerror or error}; pass another --port") from None
    with listening:
        with reporter.bar("loading model", 100, counted=False) as advance:
            lm = NativeLM.load(config.model, lambda done, total: advance(done * 100 // total))
        _reserve(lm, config.kv_memory)
        for notice in lm.notices:
            reporter.say(notice)
        reporter.say(f"memory for the keys and values of {lm.pool.num_tokens:,} tokens: {lm.pool.memory.num_bytes / 1e9:.2f} GB")
        app = guarded(make_app(lm, config.served_name, config.max_model_len), access)
        if not access.is_local and access.key is None:
            reporter.say(f"whoever reaches {config.host} may ask, without a key; set {KEY_VARIABLE} to demand one")
        host = f"[{config.host}]" if ":" in config.host else config.host
        reporter.say(f"serving {config.served_name} at http://{host}:{listening.getsockname()[1]}/v1 (Ctrl-C ends it)")
        try:
            server_of(app).run([listening])
        except KeyboardInterrupt:  # uvicorn has stopped by then
            reporter.say("stopped")


def _reserve(lm: NativeLM, kv_memory: str | None) -> None:
    """Set the memory for keys and values aside. Raises EvalkitError if it does not fit."""
    if kv_memory is None:
        return
    lm.kv_memory = bytes_of(kv_memory, "--kv-memory")
    try:
        lm.pool  # noqa: B018
    except EvalkitError as error:
        raise EvalkitError(f"--kv-memory {kv_memory}: {error}") from None
