"""Servers that are busy, slow or broken: what is asked again, how long is waited, and what is said in the end."""

import gzip
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest

from evalkit.errors import EvalkitError
from evalkit.lm.http import MAX_BODY, JsonClient, RequestFailed, RetryPolicy, concurrently

SECRET = "sk-very-secret"
Handler = Callable[[httpx2.Request], httpx2.Response]


class Server:
    """Answers one after the other: responses, or exceptions to raise; the last one for ever."""

    def __init__(self, *answers: httpx2.Response | Exception):
        self.answers, self.requests = list(answers), []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def client(server: Handler, **policy: Any) -> tuple[JsonClient, list[float]]:
    """A client of the server, on a clock of its own; and the waits it took."""
    waits: list[float] = []
    found = JsonClient("http://host/v1/", SECRET, RetryPolicy(**policy), httpx2.MockTransport(server))
    found._clock, found._random = lambda: sum(waits), random.Random(0)
    found._sleep = waits.append
    return found, waits


def ok(**content: Any) -> httpx2.Response:
    return httpx2.Response(200, json=content or {"a": 1})


def status(number: int, message: str = "why", headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
    return httpx2.Response(number, json={"error": {"message": message, **fields}}, headers=headers)


@pytest.mark.parametrize(
    "failure",
    [
        *map(status, (408, 409, 425, 429, 500, 502, 503, 504, 529)),
        httpx2.Response(502, text="<html>Bad gateway</html>"),
        httpx2.ConnectError("refused"),
        httpx2.ReadError("reset"),
        httpx2.RemoteProtocolError("closed"),
        httpx2.ReadTimeout("slow"),
        httpx2.PoolTimeout("slow"),
        httpx2.Response(200, text='{"a": 1'),
        httpx2.Response(200, content=b"\xff\xfe{"),
        httpx2.Response(200, content=b"[" * 200_000 + b"]" * 200_000),
        httpx2.Response(200, json=[1]),
        httpx2.Response(200, json={"error": {"message": "overloaded"}}),
        httpx2.Response(200, json={"error": "overloaded"}),
        httpx2.Response(200, json={"error": {"message": "busy", "code": 429}}),
        httpx2.Response(200, json={"b": 1}),
    ],
    ids=lambda failure: repr(failure)[:40],
)
def test_what_passes_is_asked_again(failure: httpx2.Response | Exception) -> None:
    server = Server(failure, failure, ok())
    asking, waits = client(server)
    assert asking.post("/x", {"q": 1}, check=lambda answer: answer["a"]) == {"a": 1}
    assert (len(server.requests), len(waits), asking.retries) == (3, 2, 2)
    assert {r.content for r in server.requests} == {b'{"q":1}'}
    assert {str(r.url) for r in server.requests} == {"http://host/v1/x"}
    assert {r.headers["authorization"] for r in server.requests} == {f"Bearer {SECRET}"}


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (status(400, "prompt too\nlong"), "status 400: prompt too long"),
        (status(401, f"Incorrect API key provided: {SECRET}."), r"status 401: Incorrect API key provided: \*\*\*\."),
        (status(404), "status 404: why"),
        (httpx2.Response(403, text=""), "status 403: no reason given"),
        (httpx2.Response(307, headers={"location": "http://other/v1"}), "moved to http://other/v1; give that address"),
        (status(429, "pay first", code="insufficient_quota"), "status 429: pay first"),
        (httpx2.Response(200, json={"error": {"message": "no", "code": 400}}), "status 400: no"),
    ],
)
def test_what_will_not_pass_is_not_asked_again(failure: httpx2.Response, message: str) -> None:
    asking, waits = client(Server(failure))
    with pytest.raises(RequestFailed, match=message) as caught:
        asking.get("/models")
    assert caught.value.refused
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not waits


def test_after_the_last_try_it_says_why() -> None:
    server = Server(status(500, SECRET))
    asking, waits = client(server, attempts=3)
    with pytest.raises(RequestFailed, match=r"http://host/v1/x: status 500: \*\*\* \(tried 3 times\); is the server up\?") as caught:
        asking.get("/x")
    assert (caught.value.refused, caught.value.status, len(server.requests), len(waits)) == (False, 500, 3, 2)


def test_waits_grow_and_are_drawn_from_the_whole_range() -> None:
    drawn: list[list[float]] = []
    for seed in range(200):
        asking, waits = client(Server(status(500)), attempts=6, base=1.0, longest_wait=5.0, deadline=1e9)
        asking._random = random.Random(seed)
        with pytest.raises(RequestFailed):
            asking.get("/x")
        drawn.append(waits)
    for nth, top in zip(zip(*drawn, strict=True), (1, 2, 4, 5, 5), strict=True):
        assert 0 <= min(nth) < 0.05 * top
        assert 0.95 * top < max(nth) <= top


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_the_least_wait(form: str) -> None:
    value = "7" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=7.9), usegmt=True)
    asking, waits = client(Server(status(429, headers={"Retry-After": value}), ok()), base=1.0)
    asking.get("/x")
    assert 5.9 <= waits[0] <= 9


@pytest.mark.parametrize(
    "value", ["soon", "-3", "nan", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2015", "Fri, 31 Dec 99999999999999 23:59:59 GMT"]
)
def test_a_retry_after_that_says_nothing_leaves_the_usual_wait(value: str) -> None:
    asking, waits = client(Server(status(503, headers={"Retry-After": value}), ok()), base=1.0)
    asking.get("/x")
    assert 0 <= waits[0] <= 1


@pytest.mark.parametrize("value", ["inf", "9" * 400])
def test_an_endless_retry_after_ends_the_request(value: str) -> None:
    asking, waits = client(Server(status(429, headers={"Retry-After": value}), ok()))
    with pytest.raises(RequestFailed, match="asks to wait"):
        asking.get("/x")
    assert not waits


def test_an_answer_without_bound_is_refused_before_it_fills_the_memory() -> None:
    bomb = gzip.compress(b'{"a": "' + b"x" * (MAX_BODY + (1 << 20)) + b'"}')
    assert len(bomb) < 1 << 20
    asking, waits = client(Server(httpx2.Response(200, content=bomb, headers={"content-encoding": "gzip"})))
    with pytest.raises(RequestFailed, match="the answer is longer than 64 MiB"):
        asking.get("/x")
    assert not waits


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    server = Server(status(429, headers={"Retry-After": "3600"}))
    asking, waits = client(server, deadline=60)
    with pytest.raises(RequestFailed, match=r"asks to wait 3600 s \(tried once\)"):
        asking.get("/x")
    assert (len(server.requests), waits) == (1, [])


def test_the_deadline_bounds_all_tries() -> None:
    asking, waits = client(Server(status(500)), attempts=1000, deadline=100)
    with pytest.raises(RequestFailed):
        asking.get("/x")
    assert 40 < sum(waits) < 100


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("host:8000", "not an http"),
        ("ftp://host", "not an http"),
        ("http://", "not an http"),
        ("http://me:word@host/v1", "must not contain a user name or password"),
        ("http://[::1", "is not an address"),
    ],
)
def test_addresses_that_are_none(address: str, message: str) -> None:
    with pytest.raises(EvalkitError, match=message) as caught:
        JsonClient(address)
    assert "word" not in str(caught.value).replace("password", "")


def test_a_key_with_a_line_end_is_refused_and_not_shown() -> None:
    with pytest.raises(EvalkitError, match="line end") as caught:
        JsonClient("http://host", SECRET + "\n")
    assert SECRET not in str(caught.value)


def test_concurrently_keeps_to_its_bound_and_answers_everything() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(n: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01 if n % 2 else 0.002)
        with lock:
            running -= 1
        return n * n

    assert dict(concurrently(work, range(20), workers=4)) == {i: i * i for i in range(20)}
    assert most == 4
    assert list(concurrently(work, [], workers=4)) == []


def test_concurrently_raises_the_first_fault_and_starts_nothing_more() -> None:
    begun = []

    def work(n: int) -> None:
        begun.append(n)
        if n == 1:
            raise EvalkitError("broken")
        time.sleep(0.02)

    with pytest.raises(EvalkitError, match="broken"):
        list(concurrently(work, range(1000), workers=2))
    time.sleep(0.1)
    assert len(begun) < 10
