"""A worker's process: `python -m evalkit.workers.process FD`, started by a driver with its end of a socket pair."""

import os
import queue
import socket
import sys
import threading

from evalkit.workers.channel import WorkerEnd
from evalkit.workers.worker import Open, engine_of, serve


def main(fd: int, open_engine: Open = engine_of) -> None:
    """Serve until the driver is gone; then end at once, whatever the engine does."""
    end = WorkerEnd(socket.socket(fileno=fd))
    said: queue.SimpleQueue = queue.SimpleQueue()

    def listen() -> None:
        try:
            while (message := end.receive()) is not None:
                said.put(message)
        except OSError:
            pass
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    try:
        serve(said.get, end.send, open_engine)
    except OSError:  # the driver is gone
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
