"""Who may ask a server, and how much and how slowly: refused before the model is asked."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx2
import pytest

pytest.importorskip("fastapi", reason="pip install 'evalkit-lm[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'evalkit-lm[serve]'")

from evalkit.errors import EvalkitError
from evalkit.serve import KEY_VARIABLE, ServeConfig, access, connection
from evalkit.serve.access import MAX_BODY_BYTES, Access, guarded
from evalkit.serve.connection import server_of


async def length_of_body(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers with the length of the body; /flood with more than a connection holds."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": f"{(await receive())['type']}.complete"})
        return
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    for _ in range(1000 if scope["path"] == "/flood" else 0):
        await send({"type": "http.response.body", "body": b"x" * (1 << 16), "more_body": True})
    await send({"type": "http.response.body", "body": json.dumps({"bytes": len(body)}).encode()})


@contextmanager
def serving(settings: Access = Access()) -> Iterator[int]:  # noqa: B008 (frozen)
    """A server with these settings; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        server = server_of(guarded(length_of_body, settings))
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def ask(port: int, method: str = "POST", path: str = "/v1/completions", **settings: Any) -> httpx2.Response:
    return httpx2.request(method, f"http://127.0.0.1:{port}{path}", timeout=60, **settings)


def test_the_key() -> None:
    with serving(Access(key="secret")) as port:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}, {"Authorization": "Bearer secret2"}):
            refused = ask(port, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            assert refused.headers["www-authenticate"] == "Bearer"
            assert "secret" not in refused.text.replace("Bearer KEY", "")
        assert ask(port, headers={"Authorization": "Bearer secret"}, content=b"abc").json() == {"bytes": 3}
        assert ask(port, "GET", "/health").status_code == 200
    assert "secret" not in repr(Access(key="secret"))


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert ServeConfig().key is None
    monkeypatch.setenv(KEY_VARIABLE, "one")
    monkeypatch.setenv("MINE", "two")
    assert (ServeConfig().key, ServeConfig(api_key="MINE").key) == ("one", "two")
    with pytest.raises(EvalkitError, match="--api-key names the environment variable 'OTHER', which is not set"):
        _ = ServeConfig(api_key="OTHER").key
    monkeypatch.setenv("MINE", "two\n")
    with pytest.raises(EvalkitError, match="the API key in MINE holds characters that no header can"):
        _ = ServeConfig(api_key="MINE").key


@pytest.mark.parametrize(
    ("settings", "allowed", "refused"),
    [
        (Access(), ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "127.8.8.8", "[::1]:80"], ["evil.example", "", "localhost.evil.example"]),
        (Access(allow_host=("box.local",)), ["box.local:8000", "localhost"], ["evil.example", "x.box.local"]),
        (Access(host="0.0.0.0"), ["any.example"], []),
        (Access(host="0.0.0.0", allow_host=("box.local",)), ["box.local"], ["any.example"]),
    ],
)
def test_names_in_the_host_header(settings: Access, allowed: list[str], refused: list[str]) -> None:
    assert all(settings.allows_host(name) for name in allowed)
    assert not any(settings.allows_host(name) for name in refused)


def test_a_page_of_another_site_is_refused() -> None:
    """By its name (DNS rebinding), and its browser by the missing header, unless asked for."""
    origin = {"Origin": "https://page.example"}
    with serving() as port:
        assert ask(port, headers={"Host": "page.example"}).status_code == 403
        assert "access-control-allow-origin" not in ask(port, headers=origin).headers
    with serving(Access(key="secret", cors=("https://page.example",))) as port:
        preflight = origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
        assert ask(port, "OPTIONS", headers=preflight).headers["access-control-allow-origin"] == "https://page.example"
        answer = ask(port, headers=origin | {"Authorization": "Bearer secret"})
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        assert "access-control-allow-origin" not in ask(port, headers={"Origin": "https://other.example"}).headers


def test_large_bodies() -> None:
    with serving() as port:
        assert ask(port, content=b"x" * MAX_BODY_BYTES).json() == {"bytes": MAX_BODY_BYTES}
        too_large = b"x" * (MAX_BODY_BYTES + 1)
        for content in (too_large, iter([too_large[:-1], b"xx"])):  # the second without Content-Length
            refused = ask(port, content=content)
            assert refused.status_code == 413
            assert refused.json()["error"]["message"] == f"the body has more than {MAX_BODY_BYTES} bytes; send less at once"


def received(port: int, sent: bytes) -> bytes:
    """What comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(sent)
        parts = []
        while part := client.recv(1 << 16):
            parts.append(part)
        return b"".join(parts)


def test_clients_that_do_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(access, "BODY_SECONDS", 0.3)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
    with serving() as port:
        assert received(port, b"") == b""
        assert received(port, head) == b""
        assert received(port, head + b"\r\nab").startswith(b"HTTP/1.1 408 ")
        whole = head + b"Connection: close\r\n\r\nabcde"
        assert b'{"bytes": 5}' in received(port, whole)


def test_a_client_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "SEND_SECONDS", 0.3)
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(1)
        size = 0
        with suppress(ConnectionResetError):
            while part := client.recv(1 << 16):
                size += len(part)
        assert size < 1000 << 16
