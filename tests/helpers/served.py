"""A real uvicorn on a loopback port, in a thread: what tests of the server and of its clients ask."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from evalkit.config import ModelSpec
from evalkit.lm.native import NativeLM


def with_template(model: Path, folder: Path, template: str) -> NativeLM:
    """A copy of the model in `folder` with this chat template, loaded, on one thread."""
    torch.set_num_threads(1)
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(template)
    return NativeLM.load(ModelSpec(str(folder)))


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """Serve an ASGI app; yields its address, up to the port."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as bound:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()
