"""What the clients of a soak ask: honest requests, whose answers are known, and twelve kinds of hostile ones."""

import json
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

TIMEOUT = 300
WORDS = "the sky over a small harbour was grey and low and the boats came home one after the other while rain fell on the quay".split()


@dataclass
class Honest:
    """A request whose answer does not depend on when it is asked; `expected` is what it gets alone."""

    path: str
    body: dict[str, Any]
    expected: Any = field(default=None, repr=False)


def _text(words: int, seed: int) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


def honest_requests() -> list[Honest]:
    """Short and long, streamed or not, greedy and sampled, and prompts that are scored."""
    found = []
    for i in range(24):  # short ones
        settings = {"temperature": 0.8, "seed": i} if i % 3 == 0 else {"temperature": 0}
        body = {"prompt": _text(6 + i % 7, i), "max_tokens": 4 + i, "stream": i % 2 == 0} | settings
        found.append(Honest("/v1/completions", body))
    for i in range(4):  # long answers, past the end of text
        body = {"prompt": _text(10, 100 + i), "max_tokens": 150 + 40 * i, "temperature": 0, "ignore_eos": True, "stream": i % 2 == 0}
        found.append(Honest("/v1/completions", body))
    for i in range(4):  # long prompts, two of which begin alike
        body = {"prompt": _text(300, 200 + i // 2) + _text(20, 300 + i), "max_tokens": 8, "temperature": 0}
        found.append(Honest("/v1/completions", body))
    for i in range(4):
        body = {"prompt": _text(20 + 60 * (i % 2), 400 + i), "max_tokens": 0, "echo": True, "logprobs": 2, "temperature": 0}
        found.append(Honest("/v1/completions", body))
    return found


def _post(connection: HTTPConnection, path: str, body: dict[str, Any] | bytes) -> None:
    content = body if isinstance(body, bytes) else json.dumps({"model": "soak"} | body).encode()
    connection.request("POST", path, content, {"Content-Type": "application/json"})


def ask(port: int, request: Honest) -> Any:
    """The answer's text, and the log-probabilities where they are asked for. Raises OSError or ValueError for any other answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        _post(connection, request.path, request.body)
        response = connection.getresponse()
        content = response.read().decode()
        if response.status != 200:
            raise ValueError(f"{response.status} {content[:300]}")
        if not request.body.get("stream"):
            choice = json.loads(content)["choices"][0]
            return [choice["text"], choice["finish_reason"], choice["logprobs"]]
        events = [json.loads(line[6:]) for line in content.splitlines() if line.startswith("data: {")]
        if "data: [DONE]" not in content:
            raise ValueError(f"the stream breaks off: {content[-300:]}")
        choices = [event["choices"][0] for event in events if event.get("choices")]
        return ["".join(choice["text"] for choice in choices), choices[-1]["finish_reason"], None]
    finally:
        connection.close()


def _sent(body: dict[str, Any] | bytes, path: str = "/v1/completions") -> Callable[[int, random.Random], str]:
    def send(port: int, draw: random.Random) -> str:
        connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        try:
            _post(connection, path, body)
            return str(connection.getresponse().status)
        finally:
            connection.close()

    return send


def _leaves(stream: bool) -> Callable[[int, random.Random], str]:
    """Asks for a long answer and goes away after a moment."""

    def send(port: int, draw: random.Random) -> str:
        connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        _post(connection, "/v1/completions", GREEDY | {"max_tokens": 1500, "ignore_eos": True, "stream": stream})
        connection.sock.settimeout(draw.choice((0.05, 0.2, 1.0)))
        try:
            for _ in range(3):
                connection.sock.recv(200)
        except TimeoutError:
            pass
        connection.close()
        return "left"

    return send


def _breaks_off(port: int, draw: random.Random) -> str:
    """Half a request, then nothing."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4000\r\n\r\n{" + b" " * draw.randrange(2000)
        )
    return "left"


GREEDY = {"prompt": "The", "max_tokens": 20, "temperature": 0}
HOSTILE: dict[str, Callable[[int, random.Random], str]] = {
    "smallest temperature": _sent(GREEDY | {"temperature": 5e-324, "seed": 1}),
    "temperature that is no number": _sent(b'{"model": "soak", "prompt": "The", "temperature": NaN}'),
    "lone surrogate in the prompt": _sent(b'{"model": "soak", "prompt": "a\\ud800b", "max_tokens": 4}'),
    "lone surrogate in a stop string": _sent(b'{"model": "soak", "prompt": "ab", "max_tokens": 4, "stop": ["\\udfff"]}'),
    "seed beyond 64 bits": _sent(GREEDY | {"temperature": 1, "seed": 1 << 70}),
    "tokens outside the vocabulary": _sent(GREEDY | {"prompt": [5, 10**9]}),
    "prompt beyond the context": _sent(GREEDY | {"prompt": "harbour " * 40_000}),
    "answer beyond the context": _sent(GREEDY | {"max_tokens": 10**12}),
    "deep JSON": _sent(b'{"model": "soak", "prompt": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
    "leaves a stream": _leaves(stream=True),
    "leaves without a stream": _leaves(stream=False),
    "breaks off": _breaks_off,
}


def provoke(port: int, kind: str, draw: random.Random) -> str:
    """Send a hostile request; its HTTP status, or "left"."""
    return HOSTILE[kind](port, draw)
