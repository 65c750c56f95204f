"""HTTP connections that are closed when nothing comes; uvicorn's own wait for ever for the end of a request's headers."""

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 20.0  # from the connection, or a request's first byte, to the end of its headers
KEEP_ALIVE_SECONDS = 30  # between requests of one connection
CONNECTIONS = 1024  # more are answered with 503


class _TimedConnection(H11Protocol):
    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Run the time while a request's headers are not complete."""
        if self.conn.their_state is not h11.IDLE:
            self._unwatch()
        elif self._headers_due is None:
            self._headers_due = self.loop.call_later(HEADER_SECONDS, self._close)

    def _unwatch(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def server_of(app: Any) -> uvicorn.Server:
    """uvicorn with these connections."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=_TimedConnection,
            ws="none",
            log_level="warning",
            timeout_graceful_shutdown=3,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            limit_concurrency=CONNECTIONS,
            server_header=False,
        )
    )
