"""`evalkit serve`, which also counts: for each short streamed request, the steps of the engine from its arrival to its first token.

python tests/faults/soak_server.py MODEL KV_MEMORY COUNTS_FILE
"""

import json
import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalkit.config import ModelSpec
from evalkit.lm.native_tokens import GenerateRequest, Generation
from evalkit.progress import Reporter
from evalkit.serve import ServeConfig, serve
from evalkit.serve.dispatcher import Dispatcher
from moe_lm.engine.generator import Generator

SHORT = 200  # tokens


class Counts:
    """Counted in the dispatcher's thread and the event loop's; each number has one writer."""

    def __init__(self) -> None:
        self.steps = 0
        self.first: list[int] = []

    def install(self) -> None:
        step, generate = Generator.step, Dispatcher.generate

        def counted_step(generator: Generator) -> Any:
            self.steps += 1
            return step(generator)

        def counted_generate(dispatcher: Dispatcher, request: GenerateRequest) -> "Future[Generation]":
            if request.on_progress is None or len(request.prompt) > SHORT:
                return generate(dispatcher, request)
            return generate(dispatcher, replace(request, on_progress=self._until_first(request.on_progress)))

        Generator.step, Dispatcher.generate = counted_step, counted_generate  # type: ignore[method-assign]

    def _until_first(self, on_progress: Callable[[Generation], None]) -> Callable[[Generation], None]:
        """The callback, which notes how many steps have begun since now when it is first called."""
        arrived, begun = self.steps, False

        def noted(answer: Generation) -> None:
            nonlocal begun
            if not begun:
                begun = True
                self.first.append(self.steps - arrived)
            on_progress(answer)

        return noted


def main(model: str, kv_memory: str, file: str) -> None:
    counts = Counts()
    counts.install()
    serve(ServeConfig(ModelSpec(model), port=0, name="soak", kv_memory=kv_memory), Reporter())
    Path(file).write_text(json.dumps({"steps": counts.steps, "first": counts.first}))


if __name__ == "__main__":
    main(*sys.argv[1:])
