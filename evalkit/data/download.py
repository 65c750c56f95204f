"""A file over HTTP: a dropped download goes on where it stopped, in this process or the next; what arrived is checked before it is used.

    download(Remote("model.safetensors", url, size, check), path)

Until it is whole and `check` finds nothing wrong, the file is PATH.incomplete. Every wait is bounded: a server that refuses, stays silent
or sends too slowly ends the download within a minute, in one line, and the bytes are kept for the same command.
"""

import errno
import fcntl
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from evalkit.errors import EvalkitError, first_line, in_words

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
WAITS = (0.5, 1.0, 2.0)  # seconds before each further try; a try that brought bytes starts them again
LONGEST_WAIT = 30.0  # seconds that a server may ask to wait; what asks for more is told to the user
TIMEOUT = 10.0  # seconds without an answer, or without a byte of it
SLOW_SECONDS, SLOW_BYTES = 20.0, 20_000  # fewer bytes than this in this time: too slow to wait for
SAY_EVERY = 10.0  # seconds between lines about what is downloaded
SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class DownloadFailed(EvalkitError):
    """No file; the message says why and what to do."""


class Transient(Exception):
    """A failure that may pass: it is tried again, no sooner than after `wait` seconds."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Remote:
    """A file at an address. `size` is None where it is unknown; `check` says what is wrong with a whole file, "" for nothing."""

    name: str
    url: str
    size: int | None
    check: Callable[[Path], str]
    headers: Mapping[str, str] = field(default_factory=dict)


def patiently(ask: Callable[[], T]) -> T:
    """What `ask` returns, tried again where it raises Transient. Raises DownloadFailed where it does not pass."""
    for tries, wait in enumerate((*WAITS, None), start=1):
        try:
            return ask()
        except Transient as failure:
            _pause(failure, tries, wait)
    raise AssertionError  # the last pause raises


def wait_asked_for(headers: Mapping[str, str]) -> float:
    """The seconds of a Retry-After header, or of the hub's own ("RateLimit: "resolvers";r=0;t=55"); 0 without either."""
    asked = re.fullmatch(r"\s*(\d+)\s*", headers.get("Retry-After") or "") or re.search(r"r=0;\s*t=(\d+)", headers.get("RateLimit") or "")
    return float(asked[1]) if asked else 0.0


def why_status(status: int, headers: Mapping[str, str]) -> Exception:
    """The exception for a status that is no success: Transient, or DownloadFailed."""
    wait = wait_asked_for(headers)
    if status == 429:
        return Transient("too many requests (status 429; with a token, HF_TOKEN, more are allowed)", wait)
    reason = f"the server answers with status {status}"
    return Transient(reason, wait) if status in TRANSIENT else DownloadFailed(reason)


def download(remote: Remote, path: Path) -> None:
    """Put the file at `path`, unless it is there. Raises DownloadFailed, and OSError for what can't be written."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.incomplete")
    with _alone(partial, remote.name) as file:
        if path.exists():  # another process has downloaded it by now
            partial.unlink()
            return
        kept = _end(file)
        try:
            _fill(file, remote)
            wrong = remote.check(partial)
            if wrong and kept:  # the bytes that were there may be damaged
                file.truncate(0)
                _fill(file, remote)
                wrong = remote.check(partial)
        except (DownloadFailed, OSError) as error:
            if isinstance(error, OSError) and error.errno not in SPACE:
                raise
            reason = str(error) if isinstance(error, DownloadFailed) else f"{error.strerror}: {_space(partial.parent)}"
            if not (have := _end(file)):
                partial.unlink()
            raise DownloadFailed(f"{reason}{f'; {size_text(have)} of it are kept' if have else ''}") from None
        if wrong:
            partial.unlink()
            raise DownloadFailed(f"{wrong}, so nothing was kept; {_ALTERED}")
        os.fsync(file.fileno())
        partial.replace(path)


def require_space(folder: Path, needed: int) -> None:
    """Raises DownloadFailed where the disk of `folder`, which need not exist, has less room than `needed` bytes."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        raise DownloadFailed(f"{size_text(needed)} are needed and {size_text(free)} are free in {folder}; {_MORE_SPACE}")


def size_text(count: float) -> str:
    """ "340 bytes", "97 kB", "4.9 GB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.{1 if count < 10 * size else 0}f} {unit}"
    return f"{count:.0f} bytes"


_ALTERED = "a proxy or mirror may alter it"
_MORE_SPACE = "free some space, or set HF_HOME to a folder on another disk"


def _space(folder: Path) -> str:
    return f"{size_text(shutil.disk_usage(folder).free)} are free in {folder}; {_MORE_SPACE}"


def _pause(failure: Transient, tries: int, wait: float | None) -> None:
    """Before the next try. Raises DownloadFailed where there is none."""
    if failure.wait > LONGEST_WAIT:
        raise DownloadFailed(f"{failure}: the server asks to wait {failure.wait:.0f} s") from None
    if wait is None:
        raise DownloadFailed(f"{failure}, tried {tries} times") from None
    if failure.wait > SAY_EVERY:
        say(f"{failure}: trying again in {failure.wait:.0f} s")
    time.sleep(max(wait, failure.wait))


@contextmanager
def _alone(partial: Path, name: str) -> Iterator[FileIO]:
    """The file, open at its end for this process alone: the lock is on the file itself, so none is left by a process that was killed."""
    said = False
    while True:
        with open(partial, "a+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not said:
                    say(f"another process downloads {name}; waiting for it")
                said = True
                time.sleep(0.2)
                continue
            except OSError:  # a file system without locks: two downloads would damage the file, which its check finds
                pass
            try:
                same = os.stat(partial).st_ino == os.fstat(file.fileno()).st_ino
            except FileNotFoundError:  # the other process has moved it to its place
                continue
            if same:
                yield file
                return


def _end(file: FileIO) -> int:
    return file.seek(0, os.SEEK_END)


def _fill(file: FileIO, remote: Remote) -> None:
    """Append what is missing. Raises DownloadFailed."""
    import httpx2

    if remote.size is not None and _end(file) > remote.size:
        file.truncate(0)
    if remote.size is not None:
        require_space(Path(file.name).parent, remote.size - _end(file))
    meter, waits = _Meter(remote), iter((*WAITS, None))
    tries = 0
    while remote.size is None or _end(file) < remote.size:
        before, tries = _end(file), tries + 1
        try:
            _append(file, remote, client(), meter)
            return
        except (httpx2.UnsupportedProtocol, httpx2.TooManyRedirects) as error:
            raise DownloadFailed(first_line(error)) from None
        except (Transient, httpx2.RequestError) as error:
            failure = error if isinstance(error, Transient) else Transient(in_words(error))
        if _end(file) > before:
            waits, tries = iter((*WAITS, None)), 1
        _pause(failure, tries, next(waits))


@cache
def client() -> "httpx2.Client":
    """One for all files: it reads the certificates and the proxy settings, and keeps connections open. Raises DownloadFailed."""
    import httpx2

    try:
        return httpx2.Client(timeout=TIMEOUT, follow_redirects=True)
    except (ValueError, httpx2.InvalidURL) as error:
        raise DownloadFailed(f"the proxy settings can't be used ({first_line(error)}); mend HTTPS_PROXY and HTTP_PROXY") from None


def _append(file: FileIO, remote: Remote, client: "httpx2.Client", meter: "_Meter") -> None:
    """One request for what is missing. Raises Transient, DownloadFailed, and httpx2's errors where the connection fails."""
    start = _end(file)
    headers = {"Accept-Encoding": "identity", **remote.headers, **({"Range": f"bytes={start}-"} if start else {})}
    with client.stream("GET", remote.url, headers=headers) as response:
        if start and response.status_code == 416:  # the file is shorter than what is kept of it
            file.truncate(0)
            raise Transient("what was kept does not fit the file")
        if not response.is_success:
            raise why_status(response.status_code, response.headers)
        if start and response.status_code != 206:  # the whole file: the server knows no ranges
            start = file.truncate(0)
        length = "" if "Content-Encoding" in response.headers else response.headers.get("Content-Length", "")
        if remote.size is not None and length.isdecimal() and (sent := start + int(length)) != remote.size:
            raise DownloadFailed(f"{size_text(sent)} are sent where {size_text(remote.size)} were announced; {_ALTERED}")
        meter.restart()
        for chunk in response.iter_bytes():
            _write(file, chunk)
            start += len(chunk)
            if remote.size is not None and start > remote.size:
                file.truncate(0)
                raise DownloadFailed(f"more than the {size_text(remote.size)} that were announced are sent; {_ALTERED}")
            meter.count(start, len(chunk))
    if remote.size is not None and start < remote.size:
        raise Transient("the connection was closed before the end")


def _write(file: FileIO, chunk: bytes) -> None:
    """All of it: a disk that is nearly full takes a part."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


class _Meter:
    """Says how far a long download is, and ends one that is too slow."""

    def __init__(self, remote: Remote):
        self.remote, self.said = remote, time.monotonic()
        self.restart()

    def restart(self) -> None:
        """An answer begins: what was waited before does not count."""
        self.since, self.received = time.monotonic(), 0

    def count(self, done: int, new: int) -> None:
        self.received += new
        now = time.monotonic()
        if now - self.since >= SLOW_SECONDS:
            if self.received < SLOW_BYTES and done != self.remote.size:
                raise DownloadFailed(f"only {size_text(self.received)} came in {now - self.since:.0f} s")
            self.restart()
        if now - self.said >= SAY_EVERY:
            self.said = now
            of = f" of {size_text(self.remote.size)}" if self.remote.size else ""
            say(f"downloading {self.remote.name}: {size_text(done)}{of}")


def say(text: str) -> None:
    """A line on stderr: beside a bar, too, which rich moves down."""
    print(text, file=sys.stderr)
