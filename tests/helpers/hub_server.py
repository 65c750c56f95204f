"""A loopback server that speaks the Hugging Face hub's protocol, with faults on demand, for the real huggingface_hub client.

    with serving() as hub:
        hub.add("example/tiny", folder_of_files)                  # a repository with one commit on "main"
        hub.faults.append(Fault("GET", "model.safetensors", times=1, drop_after=1000))
        hub.requests                                              # what was asked: Request(method, path, range, token)

Modelled on huggingface.co as it answers today:

- `/ORG/NAME/resolve/REV/FILE` (`/datasets/..`): HEAD and GET; X-Repo-Commit on every answer that knows the repository. A small file is
  redirected on the host (307, /api/resolve-cache/..) with its git SHA-1 as ETag; a large one (LFS) to a CDN on another origin (302)
  with X-Linked-Etag (its SHA-256) and X-Linked-Size. Both serve ranges (206, 416).
- `/api/models/ORG/NAME[/revision/REV]` and `/api/datasets/..`: the commit and the files, with sizes and digests where `blobs` is asked.
- `/api/models/ORG/NAME/tree/REV`: the files in pages of PAGE, with a Link to the next one.
- Errors: X-Error-Code RepoNotFound (401 without a token, 404 with one), GatedRepo (401, 403), RevisionNotFound, EntryNotFound.
- No Xet header: the files are served over plain HTTP.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

PAGE = 100  # files
LFS_FROM = 10_000  # bytes: from here on a file is "large", as *.safetensors is on the hub
TOKEN = "hf_invited"  # may read gated repositories
STRANGER = "hf_stranger"  # a valid token that may not
_RESOLVE = re.compile(r"/(?P<kind>datasets/)?(?P<repo>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_CACHED = re.compile(r"/api/resolve-cache/(?P<kind>\w+)/(?P<repo>[\w.-]+/[\w.-]+)/(?P<revision>[^/]+)/(?P<file>.+)")
_TREE = re.compile(r"/api/(?P<kind>models|datasets)/(?P<repo>[\w.-]+/[\w.-]+)/tree/(?P<revision>[^/]+)")
_INFO = re.compile(r"/api/(?P<kind>models|datasets)/(?P<repo>[\w.-]+/[\w.-]+?)(/revision/(?P<revision>[^/]+))?")


@dataclass
class Fault:
    """What goes wrong with requests of a method whose path contains `where`, the first `times` of them; one of the actions below."""

    method: str
    where: str
    times: int = 10**9
    status: int | None = None  # answer with it, and `headers`
    headers: Mapping[str, str] = field(default_factory=dict)
    drop_after: int | None = None  # close the connection after so many bytes of the body
    trickle: float | None = None  # seconds between single bytes of the body
    silent: bool = False  # accept the connection and say nothing
    content: bytes | None = None  # send this instead, with a length and status that fit it
    ignore_range: bool = False  # answer the whole file with 200
    gate: threading.Event | None = None  # answer once it is set

    def takes(self, method: str, path: str) -> bool:
        if self.times and self.method == method and self.where in path:
            self.times -= 1
            return True
        return False


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    token: str | None
    host: str | None = None


@dataclass
class Repo:
    """Commits (id -> path -> bytes) and the branches and tags that name them. `any_commit`: whatever commit is asked has the same files."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    gated: bool = False
    any_commit: bool = False

    def commit(self, revision: str) -> str | None:
        found = self.refs.get(revision, revision)
        if found not in self.commits and self.any_commit and re.fullmatch("[0-9a-f]{40}", found):
            self.commits[found] = next(iter(self.commits.values()))
        return found if found in self.commits else None


@dataclass
class Hub:
    url: str = ""
    cdn: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    pages: dict[str, bytes] = field(default_factory=dict)  # what else is served, by its path
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, files: Mapping[str, bytes] | Path, **settings: bool) -> Repo:
        """A repository ("org/name", or "datasets/org/name") whose "main" is one commit with these files."""
        repo = Repo({}, {}, **settings)
        self.repos[name] = repo
        self.push(name, files)
        return repo

    def push(self, name: str, files: Mapping[str, bytes] | Path, branch: str = "main") -> str:
        """A new commit, to which the branch moves; returns its id."""
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in sorted(files.rglob("*")) if path.is_file()}
        digest = hashlib.sha1(name.encode())
        for path in sorted(files):
            digest.update(path.encode() + hashlib.sha1(files[path]).digest())
        commit = digest.hexdigest()
        self.repos[name].commits[commit] = dict(files)
        self.repos[name].refs[branch] = commit
        return commit

    def asked(self, method: str, where: str = "") -> list[Request]:
        return [request for request in self.requests if request.method == method and where in request.path]


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.hub
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        with hub.lock:
            hub.requests.append(Request(self.command, path, self.headers.get("Range"), token, self.headers.get("Host")))
            fault = next((fault for fault in hub.faults if fault.takes(self.command, path)), None)
        if fault and fault.gate:
            fault.gate.wait(60)
        with suppress(ConnectionError):
            if fault and fault.silent:
                self.connection.settimeout(30)
                self.connection.recv(1)  # until the client gives up
                self.close_connection = True
            elif fault and fault.status:
                self._send(fault.status, b'{"error": "injected"}', {"Content-Type": "application/json", **fault.headers})
            else:
                self._route(urlsplit(self.path).path, token, fault)

    def _route(self, path: str, token: str | None, fault: Fault | None) -> None:
        """The path is as it was sent: the slashes of a revision are %2F, those of a file's name are not."""
        if path in self.hub.pages:
            return self._body(self.hub.pages[path], {}, fault)
        if path.startswith("/cdn/"):
            content = next(
                (c for r in self.hub.repos.values() for f in r.commits.values() for c in f.values() if sha256(c) == path[5:]), None
            )
            return self._send(404, b"") if content is None else self._body(content, {"ETag": '"not-the-sha"'}, fault)
        if match := _INFO.fullmatch(path):
            return self._info(match, token, fault)
        if match := _TREE.fullmatch(path):
            return self._tree(match, token, fault)
        if match := _CACHED.fullmatch(path) or _RESOLVE.fullmatch(path):
            return self._resolve(match, token, fault, redirect=match.re is _RESOLVE)
        return self._send(404, b"")

    def _found(self, match: re.Match[str], token: str | None) -> tuple[Repo, str] | None:
        kind = "datasets/" if (match["kind"] or "").startswith("datasets") else ""
        repo = self.hub.repos.get(kind + match["repo"])
        if token not in (None, TOKEN, STRANGER):
            self._error(401, "", "Invalid credentials in Authorization header")
        elif repo is None:
            self._error(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repo.gated and token != TOKEN:
            self._error(403 if token else 401, "GatedRepo", "Access to this resource is restricted")
        elif (commit := repo.commit(unquote(match["revision"] or "main"))) is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {match['revision']}")
        else:
            return repo, commit
        return None

    def _info(self, match: re.Match[str], token: str | None, fault: Fault | None) -> None:
        if (found := self._found(match, token)) is None:
            return
        repo, commit = found
        siblings = []
        blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        for name, content in repo.commits[commit].items():
            entry: dict[str, object] = {"rfilename": name}
            if blobs:
                entry |= {"size": len(content), "blobId": git_sha1(content)}
                if len(content) >= LFS_FROM:
                    entry["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        body = {"_id": "1", "id": match["repo"], "sha": commit, "private": False, "gated": repo.gated, "tags": [], "downloads": 0}
        self._body(json.dumps(body | {"siblings": siblings}).encode(), {"Content-Type": "application/json"}, fault)

    def _tree(self, match: re.Match[str], token: str | None, fault: Fault | None) -> None:
        if (found := self._found(match, token)) is None:
            return
        repo, commit = found
        start, files = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0]), sorted(repo.commits[commit].items())
        entries = []
        for name, content in files[start : start + PAGE]:
            entry: dict[str, object] = {"type": "file", "oid": git_sha1(content), "size": len(content), "path": name}
            if len(content) >= LFS_FROM:
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        following = f"{self.hub.url}{urlsplit(self.path).path}?recursive=true&cursor={start + PAGE}"
        link = {"Link": f'<{following}>; rel="next"'} if start + PAGE < len(files) else {}
        self._body(json.dumps(entries).encode(), {"Content-Type": "application/json", **link}, fault)

    def _resolve(self, match: re.Match[str], token: str | None, fault: Fault | None, redirect: bool) -> None:
        if (found := self._found(match, token)) is None:
            return
        repo, commit = found
        name = unquote(match["file"])
        if name not in repo.commits[commit]:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        content = repo.commits[commit][name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(content)}"'}
        if len(content) >= LFS_FROM:
            headers |= {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
            return self._send(302, b"", headers | {"Location": f"{self.hub.cdn}/cdn/{sha256(content)}?Signature=s"})
        if redirect:
            kind = "datasets" if match["kind"] else "models"
            return self._send(307, b"", headers | {"Location": f"/api/resolve-cache/{kind}/{match['repo']}/{commit}/{match['file']}"})
        return self._body(content, headers, fault)

    def _error(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        named = {"X-Error-Code": code} if code else {}
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {"Content-Type": "application/json", "X-Error-Message": message, **named, **(headers or {})})

    def _body(self, content: bytes, headers: Mapping[str, str], fault: Fault | None) -> None:
        if fault and fault.content is not None:
            content = fault.content
        headers = {**headers, "Accept-Ranges": "bytes"}
        status, asked = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked and not (fault and fault.ignore_range):
            start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            if start >= len(content):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            status, headers["Content-Range"] = 206, f"bytes {start}-{end}/{len(content)}"
            content = content[start : end + 1]
        self._send(status, content, headers, fault)

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None, fault: Fault | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and fault.drop_after is not None:
            self.wfile.write(content[: fault.drop_after])
            self.wfile.flush()
            self.close_connection = True
        elif fault and fault.trickle:
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(fault.trickle)
        else:
            self.wfile.write(content)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that gives up is no news


@contextmanager
def serving() -> Iterator[Hub]:
    """The hub and its CDN, on two ports: two origins."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [_Server(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def point_at(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library in this process, which has read its environment, asks this hub, without a token, and keeps files in `cache`."""
    from huggingface_hub import constants

    from evalkit.data import download

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache.parent / "no token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", *(f"{kind}_PROXY" for kind in ("HTTP", "HTTPS", "ALL", "NO"))):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))
    new_connections()


def new_connections() -> None:
    """Both HTTP clients read the proxy settings again."""
    from huggingface_hub import close_session

    from evalkit.data import download

    close_session()
    if download.client.cache_info().currsize:
        download.client().close()
        download.client.cache_clear()


def whole_files(cache: Path) -> set[str]:
    """The digests under which the cache keeps content, each of which must be the content's own."""
    found = {path.name: path.read_bytes() for path in cache.glob("*/blobs/*") if path.suffix != ".incomplete"}
    for name, content in found.items():
        assert name in (sha256(content), git_sha1(content)), f"{name} is in the cache with other content"
    return set(found)
