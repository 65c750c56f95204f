"""Messages through a stream socket: a length, then the pickled message. Both ends are processes of one run, on a pair that no other has."""

import pickle
import socket
import threading
from typing import Any

_LENGTH = 8  # bytes
_CHUNK = 1 << 20


def frame(message: object) -> bytes:
    """A message as it is sent."""
    raw = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return len(raw).to_bytes(_LENGTH, "little") + raw


class Channel:
    """The driver's end, which never waits: a worker that has stopped reading stops nobody else."""

    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        self.socket = sock
        self._out, self._in = bytearray(), bytearray()

    @property
    def is_flushed(self) -> bool:
        """Is everything handed to the system?"""
        return not self._out

    def send(self, message: object) -> None:
        """Sent as far as the other end reads it; `flush` sends the rest. Raises OSError where that end is closed."""
        self._out += frame(message)
        self.flush()

    def flush(self) -> None:
        """Raises OSError where the other end is closed."""
        try:
            while self._out:
                sent = self.socket.send(memoryview(self._out)[:_CHUNK])
                del self._out[:sent]
        except BlockingIOError:
            pass

    def receive(self) -> tuple[list[Any], bool]:
        """The messages that have come whole, and whether more may come: False where the other end is closed."""
        is_open = True
        try:
            raw = self.socket.recv(_CHUNK)
            self._in += raw
            is_open = bool(raw)
        except BlockingIOError:
            pass
        except OSError:
            is_open = False
        messages, at = [], 0
        while len(self._in) - at >= _LENGTH:
            end = at + _LENGTH + int.from_bytes(self._in[at : at + _LENGTH], "little")
            if end > len(self._in):
                break
            messages.append(pickle.loads(memoryview(self._in)[at + _LENGTH : end]))
            at = end
        del self._in[:at]
        return messages, is_open


class WorkerEnd:
    """The worker's end, which waits."""

    def __init__(self, sock: socket.socket):
        self._socket, self._file, self._lock = sock, sock.makefile("rb"), threading.Lock()

    def send(self, message: object) -> None:
        """Waits until the driver takes it. Raises OSError where the driver is gone."""
        raw = frame(message)
        with self._lock:
            self._socket.sendall(raw)

    def receive(self) -> Any:
        """Waits for a message; None: the driver is gone."""
        head = self._file.read(_LENGTH)
        raw = self._file.read(int.from_bytes(head, "little")) if len(head) == _LENGTH else b""
        return pickle.loads(raw) if raw else None
