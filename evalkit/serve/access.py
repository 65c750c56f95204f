"""Who may ask: the key, the Host header, other sites' pages; and how much and how slowly a client may send.

A server on a loopback address can be reached by any page that the user's browser has open, through a name of the page's own that points
to 127.0.0.1. The page cannot choose the Host header, so only known names are answered there.
"""

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evalkit.serve.errors import error_body

MAX_BODY_BYTES = 16 << 20
DISCARDED_BYTES = 16 * MAX_BODY_BYTES
CLOSE = {"Connection": "close"}
BODY_SECONDS = 60.0  # for the whole body of a request
SEND_SECONDS = 60.0  # for a client to read on
OPEN_PATHS = frozenset({"/health"})  # asked by probes that have no key


@dataclass(frozen=True, slots=True)
class Access:
    """`key`: what clients have to send (None: nothing). `host`: the address that the server listens on.

    `allow_host`: further names that the Host header may have. `cors`: the origins of pages that may read answers; "*" is any.
    """

    key: str | None = field(default=None, repr=False)
    host: str = "127.0.0.1"
    allow_host: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        return _is_loopback(self.host)

    def allows_host(self, header: str) -> bool:
        """Any name where other machines can reach the server and none is given; otherwise loopback names, its own and those given."""
        if not self.is_local and not self.allow_host:
            return True
        name = header.rpartition("]")[0].removeprefix("[") if header.startswith("[") else header.partition(":")[0]
        return _is_loopback(name) or name.lower() in {each.lower() for each in (self.host, *self.allow_host)}

    def allows_key(self, header: str) -> bool:
        """Is it "Bearer KEY"?"""
        kind, _, key = header.partition(" ")
        return self.key is None or (kind.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), self.key.encode()))


def guarded(app: ASGIApp, access: Access) -> ASGIApp:
    """The application behind all checks."""
    checked: ASGIApp = _Guard(app, access)
    if access.cors:
        headers = ("Authorization", "Content-Type")
        checked = CORSMiddleware(checked, allow_origins=access.cors, allow_methods=("GET", "POST"), allow_headers=headers)
    return checked


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})


class _Guard:
    """Refuses, or reads the whole body and passes the request on."""

    def __init__(self, app: ASGIApp, access: Access):
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check(scope["path"], headers)
            body = await _whole_body(headers, receive)
        except _Refused as refusal:
            await _refuse(refusal, send)
            return
        unread = [body]

        async def read() -> Message:
            return {"type": "http.request", "body": unread.pop(), "more_body": False} if unread else await receive()

        async def write(message: Message) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        with suppress(TimeoutError):  # the client does not read; uvicorn closes the connection
            await self.app(scope, read, write)

    def _check(self, path: str, headers: Mapping[str, str]) -> None:
        if not self.access.allows_host(host := headers.get("host", "")):
            message = f"the Host header is {host[:200]!r}, which is no name of this server; start it with --allow-host to allow one"
            raise _Refused(403, message)
        if path not in OPEN_PATHS and not self.access.allows_key(headers.get("authorization", "")):
            message = "the API key is missing or wrong; send the header 'Authorization: Bearer KEY'"
            raise _Refused(401, message, "invalid_api_key", {"WWW-Authenticate": "Bearer"})


async def _whole_body(headers: Mapping[str, str], receive: Receive) -> bytes:
    """Raises _Refused for a body that is too large or does not arrive."""
    too_large = _Refused(413, f"the body has more than {MAX_BODY_BYTES} bytes; send less at once", headers=CLOSE)
    length = headers.get("content-length", "0")
    if "expect" in headers and length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise too_large  # the client waits for leave to send
    parts, size = list[bytes](), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while size <= DISCARDED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                # what is too large is read and dropped: many clients look for an answer only once they have sent all
                if size > MAX_BODY_BYTES:
                    parts.clear()
                else:
                    parts.append(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    break
    except TimeoutError:
        raise _Refused(408, f"the body did not arrive within {BODY_SECONDS:g} s", headers=CLOSE) from None
    if size > MAX_BODY_BYTES:
        raise too_large
    return b"".join(parts)


async def _refuse(refusal: _Refused, send: Send) -> None:
    body = json.dumps(error_body(str(refusal), refusal.status, refusal.code)).encode()
    headers = refusal.headers | {"Content-Type": "application/json", "Content-Length": str(len(body))}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
