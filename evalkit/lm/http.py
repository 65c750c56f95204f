"""JSON over HTTP to servers that are busy, slow or broken: one retry policy for every back-end and judge.

    client = JsonClient("https://host/v1", secret=os.environ.get("OPENAI_API_KEY"))
    answer = client.post("/chat/completions", {"model": "m", "messages": [..]}, check=lambda a: a["choices"][0]["message"]["content"])
    for i, text in concurrently(ask, requests, workers=8): ..           # (index, ask(requests[index])) as each comes, in any order

Retried: 429 and 503 (no sooner than Retry-After says), 408, 409, 425, other 5xx, time-outs, refused and reset connections,
a body that is not a JSON object, a body with status 200 that says "error", and one that `check` cannot read. The wait is drawn
from 0 to base * 2^n seconds (full jitter). Other statuses, a spent quota, and the deadline raise `RequestFailed`, in one line.
The secret goes into the Authorization header and nowhere else: it is masked in what a server sends back.
"""

import json
import queue
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from evalkit.errors import EvalkitError, first_line

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
R = TypeVar("R")
TRANSIENT = frozenset({408, 409, 425, 429})  # and 5xx
MAX_BODY = 64 << 20  # bytes of one answer, unpacked: a compressed one may be a thousand times as large
MAX_TOKENS = 2**31  # no answer has more


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """All times are in seconds. `timeout`: for one attempt, to the last byte of its answer; `deadline`: for all attempts and waits."""

    attempts: int = 8
    base: float = 0.5
    longest_wait: float = 60.0
    timeout: float = 300.0
    deadline: float = 1200.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.base, self.longest_wait) < 0 or min(self.timeout, self.deadline) <= 0:
            raise EvalkitError(f"retry policy {self}: attempts must be at least 1, times positive")


class RequestFailed(EvalkitError):
    """No answer. `refused`: the server refused the request; otherwise every attempt failed. `status` is the last one, or None.

    `about`: what the server named as its reason: an error's code, type and parameter, and its message, in small letters.
    """

    def __init__(self, message: str, status: int | None, refused: bool, about: str = ""):
        super().__init__(message)
        self.status, self.refused, self.about = status, refused, about


@dataclass(frozen=True, slots=True)
class _Failure:
    """One failed attempt: the reason, whether to retry, and how long the server asked to wait."""

    reason: str
    status: int | None = None
    transient: bool = True
    retry_after: float = 0.0
    about: str = ""


class JsonClient:
    """One server. Safe to use from many threads; `retries` counts them so far."""

    def __init__(
        self,
        base_url: str,
        secret: str | None = None,
        policy: RetryPolicy | None = None,
        transport: "httpx2.BaseTransport | None" = None,
        on_try: Callable[[], None] | None = None,
    ):
        """`base_url` without a trailing path of the API's ("https://host/v1"). `transport` is for tests.

        `on_try` is called before each attempt; an exception from it ends the request (a budget is spent).

        Raises EvalkitError for anything but an http(s) address, and for one with a user name or password.
        """
        import httpx2

        try:
            url = httpx2.URL(base_url)
        except httpx2.InvalidURL as error:
            raise EvalkitError(f"{base_url!r} is not an address: {first_line(error)}; give http://HOST:PORT/v1") from None
        if url.userinfo:
            raise EvalkitError("an address must not contain a user name or password, which would be recorded; use OPENAI_API_KEY")
        if url.scheme not in ("http", "https") or not url.host:
            raise EvalkitError(f"{base_url!r} is not an http(s) address; give http://HOST:PORT/v1")
        self.base_url, self.policy, self._secret = str(url).rstrip("/"), policy or RetryPolicy(), secret
        if secret is not None and not (secret.isascii() and secret.isprintable()):
            raise EvalkitError("the API key holds characters that no HTTP header can; is there a line end in it?")
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        limits = httpx2.Limits(max_connections=None)
        self._http = httpx2.Client(headers=headers, timeout=self.policy.timeout, limits=limits, transport=transport)
        weakref.finalize(self, self._http.close)
        self.retries, self._on_try = 0, on_try
        self._random = random.Random()  # it only affects when a request is retried, never its content
        self._sleep, self._clock = time.sleep, time.monotonic

    def get(self, path: str, check: Callable[[Any], Any] | None = None) -> dict[str, Any]:
        """The JSON object at `path`. Raises RequestFailed."""
        return self._ask("GET", path, None, check)

    def post(self, path: str, body: Mapping[str, Any], check: Callable[[Any], Any] | None = None) -> dict[str, Any]:
        """The JSON object that answers `body`; `check` extracts what is needed, and raises if it is missing.

        Raises RequestFailed.
        """
        return self._ask("POST", path, body, check)

    def close(self) -> None:
        """Close the connections; requests in flight fail."""
        self._http.close()

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, check: Callable[[Any], Any] | None) -> dict[str, Any]:
        policy, end = self.policy, self._clock() + self.policy.deadline
        tries = 0
        while True:
            found = self._try(method, path, body, check, min(policy.timeout, max(0.001, end - self._clock())))
            if not isinstance(found, _Failure):
                return found
            if not found.transient:
                raise RequestFailed(f"{self.base_url}{path}: {found.reason}", found.status, refused=True, about=found.about)
            tries += 1
            wait = found.retry_after + self._random.uniform(0, min(policy.longest_wait, policy.base * 2 ** (tries - 1)))
            if tries == policy.attempts or self._clock() + wait >= end:
                times = "once" if tries == 1 else f"{tries} times"
                asked = f", and asks to wait {found.retry_after:.0f} s" if found.retry_after else ""
                reason = f"{self.base_url}{path}: {found.reason}{asked} (tried {times}); is the server up?"
                raise RequestFailed(reason, found.status, refused=False)
            self.retries += 1
            self._sleep(wait)

    def _try(
        self, method: str, path: str, body: Mapping[str, Any] | None, check: Callable[[Any], Any] | None, timeout: float
    ) -> dict[str, Any] | _Failure:
        import httpx2

        if self._on_try:
            self._on_try()
        try:
            with self._http.stream(method, self.base_url + path, json=body, timeout=timeout) as response:
                raw = self._read(response, timeout)
        except httpx2.TimeoutException:
            return _Failure(f"no answer within {timeout:.0f} s")
        except (httpx2.TransportError, httpx2.DecodingError) as problem:
            return _Failure(f"no connection ({self._masked(first_line(problem))})")
        if raw is None:
            return _Failure(f"the answer is longer than {MAX_BODY >> 20} MiB", transient=False)
        try:
            content = json.loads(raw)
        except (ValueError, RecursionError):  # broken JSON, broken UTF-8, or nested too deeply
            content = None
        error = content.get("error") if isinstance(content, dict) else None
        status = response.status_code
        if status >= 400 or error:
            return self._refusal(status, error, raw, response.headers.get("retry-after"))
        if status >= 300:
            return _Failure(
                f"status {status}, moved to {response.headers.get('location', '?')}; give that address", status, transient=False
            )
        if not isinstance(content, dict):
            return _Failure(f"status {status}, but the body is not a JSON object", status)
        try:
            if check:
                check(content)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as problem:
            return _Failure(f"the answer lacks what was asked for ({type(problem).__name__}: {self._masked(first_line(problem))})", status)
        return content

    def _read(self, response: "httpx2.Response", timeout: float) -> bytes | None:
        """The body; None where it is longer than MAX_BODY.

        The client's own time-out is between bytes: a slow trickle would keep an attempt alive for ever.
        """
        import httpx2

        end, parts, size = self._clock() + timeout, [], 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > MAX_BODY:
                return None
            if self._clock() > end:
                raise httpx2.ReadTimeout("the answer drips")
        return b"".join(parts)

    def _refusal(self, status: int, error: Any, raw: bytes, retry_after: str | None) -> _Failure:
        """The failure that a status of 400 and above means, or an error in a body with another status."""
        fields = error if isinstance(error, dict) else {"message": str(error or raw.decode("utf-8", "replace"))}
        message, code = " ".join(str(fields.get("message", fields)).split())[:300], fields.get("code")
        if status < 400 and isinstance(code, int) and 100 <= code < 600:  # some gateways answer with 200 and put the status here
            status = code
        transient = status in TRANSIENT or status >= 500 or status < 400
        if "insufficient_quota" in (code, fields.get("type")):
            transient = False
        wait = _retry_after(retry_after) if status in (429, 503) else 0.0
        about = " ".join(str(fields.get(name) or "") for name in ("param", "code", "type", "message")).lower()
        return _Failure(f"status {status}: {self._masked(message) or 'no reason given'}", status, transient, wait, about)

    def _masked(self, text: str) -> str:
        return text.replace(self._secret, "***") if self._secret else text


def concurrently(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[tuple[int, R]]:
    """Yield (index, function(item)) as each is done, at most `workers` at a time; the first exception is raised here.

    If left early (an exception, Ctrl-C, close), it starts no further items and does not wait: the threads are daemons.
    """
    todo, done, stop = iter(range(len(items))), queue.SimpleQueue[tuple[int, R | None, BaseException | None]](), threading.Event()
    lock = threading.Lock()

    def work() -> None:
        while not stop.is_set():
            with lock:
                i = next(todo, None)
            if i is None:
                return
            try:
                done.put((i, function(items[i]), None))
            except BaseException as error:
                done.put((i, None, error))

    for _ in range(min(workers, len(items))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in items:
            i, result, error = done.get()
            if error is not None:
                raise error
            yield i, result  # type: ignore[misc]
    finally:
        stop.set()


def token_count(usage: Any, name: str) -> int:
    """A count in an answer's `usage`, 0 where it is not given. Raises ValueError for what no answer can have used."""
    value = usage.get(name) if isinstance(usage, dict) else None
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MAX_TOKENS or value != int(value):
        raise ValueError(f"usage.{name} is {value!r:.40}, not a number of tokens")
    return int(value)


def _retry_after(value: str | None) -> float:
    """Seconds that a Retry-After header asks for: a number, or a date (RFC 9110, 10.2.3); 0 for neither."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, (date - datetime.now(UTC)).total_seconds()) if date.tzinfo else 0.0
