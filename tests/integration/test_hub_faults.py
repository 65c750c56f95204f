"""A hub that fails: each fault is one line that names the way out, nothing half-written is left as whole, and the same command works
once the fault is gone, with the bytes that had come before."""

import errno
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import STRANGER, TOKEN, Fault, Hub, new_connections, point_at, serving, sha256, whole_files

from evalkit.cli import main
from evalkit.data import download as downloads
from evalkit.data.sources import fetch
from evalkit.errors import DataError
from evalkit.tasks import TextFile

REPO = "example/tiny"
COMMAND = ("generate", "--model", REPO, "--prompt", "hello", "--max-new-tokens", "1")
WEIGHTS = "/cdn/"  # the tiny model's one large file
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def hub(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    with serving() as hub:
        hub.add(REPO, tiny_model)
        point_at(hub, tmp_path / "cache", monkeypatch)
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def line_of(capsys: Capture, command: Sequence[str] = COMMAND, code: int = 2) -> str:
    """What the command says on stderr: one line."""
    capsys.readouterr()
    assert main(command) == code
    line = capsys.readouterr().err
    assert line.startswith("evalkit: "), line
    assert line.count("\n") == 1, line
    return line


def works(command: Sequence[str] = COMMAND) -> None:
    assert main(command) == 0


def partial_files(cache: Path) -> list[Path]:
    return [path for path in cache.glob("*/blobs/*") if path.suffix == ".incomplete"]


@dataclass
class Case:
    """What goes wrong with the hub, and what the line must say. `kept`: the bytes of the weights that stay for the next try."""

    faults: Callable[[], Sequence[Fault]]
    words: tuple[str, ...]
    kept: int = 0
    command: tuple[str, ...] = COMMAND
    timeout: float | None = None
    slow_seconds: float | None = None


CASES = {
    "429, for a long time": Case(
        lambda: [Fault("HEAD", "tokenizer.json", status=429, headers={"Retry-After": "300"})],
        ("tokenizer.json of model example/tiny", "status 429", "HF_TOKEN", "asks to wait 300 s"),
    ),
    "429, as the hub says it": Case(
        lambda: [Fault("GET", "/api/models", status=429, headers={"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"api";q=500;w=300'})],
        ("model example/tiny", "status 429", "asks to wait 55 s"),
    ),
    "429, of the CDN": Case(lambda: [Fault("GET", WEIGHTS, status=429)], ("model.safetensors", "status 429", "tried 4 times")),
    "500, of the API": Case(lambda: [Fault("GET", "/api/models", status=500)], ("status 500, tried 4 times", "run the same command again")),
    "503, of a file": Case(lambda: [Fault("HEAD", "config.json", status=503)], ("config.json of", "status 503, tried 4 times")),
    "502, of the CDN": Case(lambda: [Fault("GET", WEIGHTS, status=502)], ("model.safetensors of", "status 502, tried 4 times")),
    "403, an expired signature": Case(lambda: [Fault("GET", WEIGHTS, status=403)], ("model.safetensors of", "status 403")),
    "403": Case(lambda: [Fault("GET", "/api/models", status=403)], ("access is forbidden (status 403)", "HF_TOKEN")),
    "dropped, again and again": Case(
        lambda: [Fault("GET", WEIGHTS, times=1, drop_after=40_000), Fault("GET", WEIGHTS, drop_after=0)],
        ("model.safetensors of", "RemoteProtocolError", "tried 4 times", "40 kB of it are kept", "run the same command again"),
        kept=40_000,
    ),
    "wrong size": Case(
        lambda: [Fault("GET", WEIGHTS, content=b"<html>Please log in.</html>")],
        ("model.safetensors of", "27 bytes are sent where 97 kB were announced", "proxy"),
    ),
    "wrong content": Case(
        lambda: [Fault("GET", WEIGHTS, content=b"\0" * 97_000)],
        ("model.safetensors of", "what arrived has the digest", "nothing was kept"),
    ),
    "wrong content of a small file": Case(
        lambda: [Fault("GET", "tokenizer_config.json", content=b"{" + b" " * 122 + b"}")],
        ("tokenizer_config.json of", "what arrived has the digest", "nothing was kept"),
    ),
    "a log-in page instead of the API": Case(
        lambda: [Fault("GET", "/api/models", content=b"<html>Please log in.</html>")], ("is not a hub", "HF_ENDPOINT", "proxy")
    ),
    "a file without commit and digest": Case(lambda: [Fault("HEAD", "config.json", status=200)], ("is not a hub", "HF_ENDPOINT")),
    "silent": Case(
        lambda: [Fault("GET", "/api/models", silent=True)], ("no answer from http://127.0.0.1:", "in 1 s", "HF_ENDPOINT"), timeout=1
    ),
    "silent CDN": Case(lambda: [Fault("GET", WEIGHTS, silent=True)], ("model.safetensors of", "ReadTimeout", "tried 4 times"), timeout=1),
    "slow": Case(
        lambda: [Fault("GET", WEIGHTS, trickle=0.02)],
        ("model.safetensors of", "bytes came in ", "of it are kept", "run the same command again"),
        kept=5,
        slow_seconds=0.5,
    ),
    "no such file": Case(
        lambda: [],
        ("example/tiny has no file other.gguf", "no GGUF file"),
        command=("generate", "--model", f"{REPO}:other.gguf", "--prompt", "x"),
    ),
    "no such revision": Case(
        lambda: [],
        ("model example/tiny has no revision 'v2'", "branches, tags or commits"),
        command=("generate", "--model", f"{REPO}@v2", "--prompt", "x"),
    ),
    "no such repository": Case(
        lambda: [],
        ("has no model example/tinny", "check the name", "HF_TOKEN"),
        command=("generate", "--model", "example/tinny", "--prompt", "x"),
    ),
    "no name of the hub's": Case(
        lambda: [], ("model example/a..b", "repo_id"), command=("generate", "--model", "example/a..b", "--prompt", "x")
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fault(hub: Hub, cache: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    case = CASES[name]
    hub.faults += case.faults()
    started = time.monotonic()
    with monkeypatch.context() as patched:
        if case.timeout:
            patched.setattr(downloads, "TIMEOUT", case.timeout)
            patched.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", case.timeout)
        if case.slow_seconds:
            patched.setattr(downloads, "SLOW_SECONDS", case.slow_seconds)
        line = line_of(capsys, case.command)
    new_connections()
    assert not [word for word in case.words if word not in line], line
    assert time.monotonic() - started < 60  # not the minutes that the library alone may take
    weights = sha256(hub.repos[REPO].commits[hub.repos[REPO].refs["main"]]["model.safetensors"])
    assert weights not in whole_files(cache)
    partial = partial_files(cache)
    assert sum(path.stat().st_size for path in partial) >= case.kept
    assert bool(partial) == bool(case.kept)
    kept = sum(path.stat().st_size for path in partial)
    hub.faults.clear()
    hub.requests.clear()
    works()
    assert weights in whole_files(cache)
    assert not partial_files(cache)
    assert [request.range for request in hub.asked("GET", WEIGHTS)] == [f"bytes={kept}-" if kept else None]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", WEIGHTS, times=1, drop_after=40_000),
        Fault("GET", WEIGHTS, times=3, status=503),
        Fault("GET", WEIGHTS, times=1, status=429, headers={"Retry-After": "1"}),
        Fault("HEAD", "config.json", times=3, status=500),
        Fault("GET", "/api/models", times=2, drop_after=10),
    ],
    ids=lambda fault: f"{fault.method} {fault.where} {fault.status or 'dropped'}",
)
def test_what_passes_is_not_even_said(hub: Hub, cache: Path, capsys: Capture, fault: Fault) -> None:
    hub.faults.append(Fault(**vars(fault)))
    works()
    assert hub.faults[0].times == 0
    assert "evalkit:" not in capsys.readouterr().err
    assert len(whole_files(cache)) == 5


def test_a_server_without_ranges_begins_again(hub: Hub, cache: Path) -> None:
    hub.faults += [Fault("GET", WEIGHTS, times=1, drop_after=40_000), Fault("GET", WEIGHTS, ignore_range=True)]
    works()
    assert [request.range for request in hub.asked("GET", WEIGHTS)] == [None, "bytes=40000-"]
    assert len(whole_files(cache)) == 5


@pytest.mark.parametrize("left", [b"", b"\0" * 40_000, b"\0" * 97_000, b"\0" * 200_000], ids=len)
def test_a_partial_file_that_is_damaged_is_fetched_anew(hub: Hub, cache: Path, left: bytes) -> None:
    """As an earlier program, or a crash of the machine, may have left it."""
    content = hub.repos[REPO].commits[hub.repos[REPO].refs["main"]]["model.safetensors"]
    partial = cache / "models--example--tiny" / "blobs" / f"{sha256(content)}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(left)
    works()
    assert sha256(content) in whole_files(cache)
    assert not partial_files(cache)


def test_a_partial_file_of_an_earlier_library_goes_on(hub: Hub, cache: Path) -> None:
    """huggingface_hub up to 1.x leaves ETAG.incomplete, and a lock file that nobody holds."""
    content = hub.repos[REPO].commits[hub.repos[REPO].refs["main"]]["model.safetensors"]
    partial = cache / "models--example--tiny" / "blobs" / f"{sha256(content)}.incomplete"
    stale = cache / ".locks" / "models--example--tiny" / f"{sha256(content)}.lock"
    for path, left in ((partial, content[:60_000]), (stale, b"")):
        path.parent.mkdir(parents=True)
        path.write_bytes(left)
    works()
    assert [request.range for request in hub.asked("GET", WEIGHTS)] == ["bytes=60000-"]
    assert sha256(content) in whole_files(cache)


def test_two_at_once_download_once(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Event()
    hub.faults.append(Fault("GET", WEIGHTS, gate=waiting))
    said: list[str] = []
    found: list[Path] = []

    def say(text: str) -> None:
        said.append(text)
        if "model.safetensors" in text:
            waiting.set()

    monkeypatch.setattr(downloads, "say", say)

    def load() -> None:
        from evalkit.lm.models import find

        found.append(find(REPO).path)

    both = [threading.Thread(target=load) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(60)
    assert len(found) == 2
    assert len(hub.asked("GET", WEIGHTS)) == 1
    assert "another process downloads example/tiny model.safetensors; waiting for it" in said
    assert len(whole_files(cache)) == 5


def test_a_gated_repository(hub: Hub, cache: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos[REPO].gated = True
    assert f"model example/tiny is gated; ask for access at {hub.url}/example/tiny, then set HF_TOKEN" in line_of(capsys)
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    assert "is gated, and the token in use may not read it" in line_of(capsys)
    monkeypatch.setenv("HF_TOKEN", "hf_mistyped")
    assert "does not accept the token in use; set HF_TOKEN to another" in line_of(capsys)
    for mistaken in ("hf_s\u00e9cret", "hf_se\x1bcret"):
        monkeypatch.setenv("HF_TOKEN", mistaken)
        assert "holds characters that no HTTP header can" in (line := line_of(capsys))
        assert "cret" not in line
    assert not whole_files(cache)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    works()
    assert {request.token for request in hub.asked("GET", "/resolve/")} == {TOKEN}
    assert [request.token for request in hub.asked("GET", WEIGHTS)] == [None]  # the CDN is another origin: it never sees the token


def test_no_room_is_said_before_the_weights(hub: Hub, cache: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=90_000))
    line = line_of(capsys)
    assert "102 kB are needed and 90 kB are free" in line
    assert "set HF_HOME" in line
    assert not hub.asked("GET", WEIGHTS)
    monkeypatch.undo()
    point_at(hub, cache, monkeypatch)
    works()


def test_a_disk_that_fills_up(hub: Hub, cache: Path, capsys: Capture) -> None:
    """The file size limit of this process: writing fails in the middle of the weights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        line = line_of(capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.strerror(errno.EFBIG) in line
    assert "50 kB of it are kept" in line
    assert "set HF_HOME" in line
    hub.requests.clear()
    works()
    assert [request.range for request in hub.asked("GET", WEIGHTS)] == ["bytes=50000-"]
    assert len(whole_files(cache)) == 5


def test_a_cache_that_cannot_be_written(hub: Hub, cache: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_text("a file, where a folder is expected")
    line = line_of(capsys)
    assert str(cache) in line
    assert "set HF_HOME to another folder" in line
    if Path("/sys/kernel").is_dir():  # read-only, even for root
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/sys/kernel/evalkit")
        line = line_of(capsys)
        assert "/sys/kernel/evalkit" in line
        assert "set HF_HOME" in line
    cache.unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    works()


def test_a_hub_that_is_not_there(hub: Hub, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as gone:
        pass
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", gone.url)
    line = line_of(capsys)
    assert f"{gone.url} can't be reached (ConnectError: " in line
    assert "check the network, HF_ENDPOINT and the proxy settings" in line
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "hub.example")  # no scheme
    assert "hub.example can't be reached" in line_of(capsys)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    works()


def test_proxy_settings(hub: Hub, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nothing listens there
    new_connections()
    assert "can't be reached (ConnectError: " in line_of(capsys)
    monkeypatch.setenv("HTTP_PROXY", "nonsense://proxy")
    new_connections()
    assert "nonsense" in (line := line_of(capsys))
    assert "proxy settings" in line
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    new_connections()
    works()
    hub.requests.clear()
    # the hub plays the proxy: a name that does not exist is reached through it, the files too
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://hub.example")
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://hub.example/{repo_id}/resolve/{revision}/{filename}"
    )
    hub.push(REPO, {"config.json": b"{}", "tiny.gguf": b"GGUF" * 5000}, "v2")
    new_connections()
    assert "gguf" in line_of(capsys, ["generate", "--model", f"{REPO}@v2:tiny.gguf", "--prompt", "x"])  # which is no GGUF file
    assert {request.host for request in hub.requests} == {"hub.example", hub.cdn.removeprefix("http://")}
    new_connections()


def test_interrupted_it_goes_on(hub: Hub, cache: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: downloads._Meter, done: int, new: int) -> None:
        if done > 30_000:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(downloads._Meter, "count", interrupt)
        assert "interrupted" in line_of(capsys, code=4)
    (partial,) = partial_files(cache)
    kept = partial.stat().st_size
    assert kept > 30_000
    hub.requests.clear()
    works()
    assert [request.range for request in hub.asked("GET", WEIGHTS)] == ([f"bytes={kept}-"] if kept < 97_000 else [])


def test_a_text_at_a_pinned_address(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worked examples and tables that are not on the hub: the same download, checked against the digest in the code."""
    from evalkit.data import sources

    monkeypatch.setattr(sources, "CACHE", tmp_path / "evalkit")
    content = b"Q: 1 + 1?\nA: 2\n" * 1000
    hub.pages["/examples.txt"] = content
    file = TextFile("gsm8k/examples.txt", f"{hub.url}/examples.txt", sha256(content))
    hub.faults += [Fault("GET", "/examples", times=1, drop_after=9000), Fault("GET", "/examples", drop_after=0)]
    with pytest.raises(
        DataError, match=r"cannot fetch http.*RemoteProtocolError.*9.0 kB of it are kept; put gsm8k/examples\.txt into a folder"
    ):
        fetch(file)
    hub.faults[:] = [Fault("GET", "/examples", content=b"moved")]
    with pytest.raises(DataError, match=r"the file changed upstream.*nothing was kept"):
        fetch(file)
    hub.faults[:] = [Fault("GET", "/examples", status=404)]
    with pytest.raises(DataError, match="status 404"):
        fetch(file)
    hub.faults.clear()
    assert fetch(file) == content
    hub.requests.clear()
    assert fetch(file) == content
    (tmp_path / "evalkit" / "files" / file.sha256).write_bytes(b"damaged")
    assert len(hub.requests) == 0
    assert fetch(file) == content
    assert len(hub.requests) == 1
