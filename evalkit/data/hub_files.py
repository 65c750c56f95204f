"""Files of the Hugging Face hub's repositories, in huggingface_hub's own cache, so that what other programs downloaded is used.

The library names and places files; the download itself is `evalkit.data.download`'s. Alone the library (2.4) would start an interrupted
download anew, compare what arrived with its size only, and retry a hub that is busy or out of reach for minutes.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from evalkit.data.download import DownloadFailed, Remote, Transient, download, patiently, require_space, say, why_status
from evalkit.errors import EvalkitError, first_line, in_words

T = TypeVar("T")
_COMMIT = re.compile("[0-9a-f]{40}")


class HubError(EvalkitError):
    """A file or repository that can't be had; the message names it, the reason and the way out."""


class NoSuchFile(HubError):
    """The repository has no file of this name."""


class Unavailable(HubError):
    """The hub did not answer, refused, or may not be asked (HF_HUB_OFFLINE): a copy in the cache may be used."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one commit, with their sizes in bytes (None where the hub gives none)."""

    commit: str
    sizes: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at a revision: a branch, a tag or a commit; None is its default branch."""

    id: str
    revision: str | None = None
    kind: Literal["model", "dataset"] = "model"

    def __post_init__(self) -> None:
        try:
            import huggingface_hub.constants  # noqa: F401 - it reads the environment
        except ValueError as error:
            raise HubError(f"an HF_* environment variable can't be read ({first_line(error)}); mend it, or unset it") from None

    def __str__(self) -> str:
        return f"{self.kind} {self.id}" + (f"@{self.revision}" if self.revision else "")

    def at(self, commit: str | None) -> "Repository":
        return replace(self, revision=commit or self.revision)

    def file(self, name: str) -> Path:
        """The file's path, downloaded if need be; where the hub does not give it, the copy that the cache has. Raises HubError."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        if _COMMIT.fullmatch(self.revision or "") and (path := self.cached(name)):
            return path  # a commit never changes
        url = hf_hub_url(self.id, name, repo_type=self.kind, revision=self.revision)
        try:
            found = self._asked(lambda: get_hf_file_metadata(url, timeout=_timeout()), name)
        except Unavailable as error:
            if path := self.cached(name):
                say_cached(error, path)
                return path
            raise
        if not found.etag or not found.commit_hash or not re.fullmatch(r"[\w.-]+", found.etag):
            raise _no_hub("it gives no commit, or no digest of the file")
        with self._failures(name):
            self.at(found.commit_hash)._complete(name, found.etag, found.size)
            # the file is there: the library writes its name in the snapshot, and the commit of the branch
            return Path(hf_hub_download(self.id, name, repo_type=self.kind, revision=self.revision))

    def cached(self, name: str) -> Path | None:
        """The file's path in the cache; None where it is not there. Asks no network."""
        from huggingface_hub import try_to_load_from_cache

        try:
            path = try_to_load_from_cache(self.id, name, revision=self.revision, repo_type=self.kind)
        except ValueError as error:  # "../x": a hub does not list such a name
            raise HubError(f"{self}: {first_line(error)}") from None
        return Path(path) if isinstance(path, str) else None

    def listing(self) -> Listing:
        """Commit and files. Raises HubError."""
        from huggingface_hub import HfApi

        def ask() -> Listing:
            info = HfApi().repo_info(self.id, revision=self.revision, repo_type=self.kind, files_metadata=True, timeout=_timeout())
            return Listing(str(info.sha), {each.rfilename: each.size for each in getattr(info, "siblings", None) or ()})

        return self._asked(ask)

    def require(self, listing: Listing, names: Sequence[str]) -> None:
        """Raises HubError, before anything is downloaded, where the repository lacks one of the files or the disk has no room for them."""
        if missing := [name for name in names if name not in listing.sizes]:
            raise NoSuchFile(f"{self} has no file {missing[0]}")
        pinned = self.at(listing.commit)
        with self._failures():
            require_space(_cache(), sum(listing.sizes[name] or 0 for name in names if not pinned.cached(name)))

    def _complete(self, name: str, etag: str, size: int | None) -> None:
        """The file's content is in the cache, under its digest. Raises DownloadFailed, and OSError where it can't be written."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import repo_folder_name
        from huggingface_hub.utils import build_hf_headers

        blob = _cache() / repo_folder_name(repo_id=self.id, repo_type=self.kind) / "blobs" / etag
        if not blob.exists():
            url = hf_hub_url(self.id, name, repo_type=self.kind, revision=self.revision)
            download(Remote(f"{self.id} {name}", url, size, lambda path: _differs(path, etag), build_hf_headers()), blob)

    def _asked(self, ask: Callable[[], T], name: str | None = None) -> T:
        """What the hub answers. Raises HubError."""
        from huggingface_hub import get_token
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        what = self._named(name)
        if not ((token := get_token() or "").isascii() and token.isprintable()):
            raise HubError("the token in use holds characters that no HTTP header can; set HF_TOKEN (or run `hf auth login`) again")

        def once() -> T:
            try:
                return ask()
            except HfHubHTTPError as error:
                if refusal := self._refusal(error, name):
                    raise refusal from None
                raise why_status(error.response.status_code, error.response.headers) from None
            except HFValidationError as error:
                raise HubError(f"{self}: {first_line(error)}") from None
            except OfflineModeIsEnabled:
                raise Unavailable(f"HF_HUB_OFFLINE is set, and {what} is not in the cache {_cache()}; unset it, or set HF_HOME") from None
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                raise _no_hub(in_words(error)) from None
            except Exception as error:  # of the HTTP library, which is another one for another huggingface_hub
                if "Timeout" in type(error).__name__:
                    raise DownloadFailed(f"no answer from {_endpoint()} in {_timeout():.0f} s") from None
                raise Transient(f"{_endpoint()} can't be reached ({in_words(error)})") from None

        try:
            return patiently(once)
        except DownloadFailed as error:
            raise Unavailable(f"{what} can't be downloaded: {error}; {_TRY}") from None

    def _refusal(self, error: Exception, name: str | None) -> HubError | None:
        """What the hub's answer means where asking again won't help; None for all others."""
        from huggingface_hub import get_token
        from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        status, url = getattr(getattr(error, "response", None), "status_code", None), f"{_endpoint()}/{self._path}"
        if isinstance(error, GatedRepoError) and get_token():
            return Unavailable(f"{self} is gated, and the token in use may not read it; ask for access at {url}, or set another HF_TOKEN")
        if isinstance(error, GatedRepoError):
            return Unavailable(f"{self} is gated; ask for access at {url}, then set HF_TOKEN (or run `hf auth login`)")
        if isinstance(error, RepositoryNotFoundError):
            token = "" if get_token() else ", or set HF_TOKEN if it is private"
            return Unavailable(f"{_endpoint()} has no {self.kind} {self.id}; check the name{token}")
        if isinstance(error, RevisionNotFoundError):
            return HubError(f"{self.kind} {self.id} has no revision {self.revision!r}; give one of its branches, tags or commits")
        if isinstance(error, EntryNotFoundError):
            return NoSuchFile(f"{self} has no file {name}")
        if status == 401:
            return Unavailable(f"{_endpoint()} does not accept the token in use; set HF_TOKEN to another (or run `hf auth login`)")
        if status == 403:
            return Unavailable(f"{self}: access is forbidden (status 403); check what the token in use (HF_TOKEN) may read")
        return None

    @property
    def _path(self) -> str:
        return f"datasets/{self.id}" if self.kind == "dataset" else self.id

    def _named(self, name: str | None) -> str:
        return f"{name} of {self}" if name else str(self)

    @contextmanager
    def _failures(self, name: str | None = None) -> Iterator[None]:
        what = self._named(name)
        try:
            yield
        except DownloadFailed as error:
            raise HubError(f"{what} can't be downloaded: {error}; {_TRY}") from None
        except PermissionError as error:
            raise HubError(f"cannot write {error.filename}: {error.strerror}; set HF_HOME to a folder that can be written") from None
        except ValueError as error:  # a name that leads out of the cache
            raise HubError(f"{what}: {first_line(error)}") from None
        except OSError as error:
            raise HubError(f"{what} can't be kept in {_cache()} ({first_line(error)}); set HF_HOME to another folder") from None


def commit_of(path: Path) -> str | None:
    """The commit that a file or folder of the library's cache is of; None for any other path."""
    match = re.search(r"/(?:model|dataset)s--[^/]+/snapshots/([0-9a-f]{40})(?=/|$)", path.as_posix())
    return match[1] if match else None


def say_cached(error: Unavailable, path: Path) -> None:
    """One line on stderr, unless the user asked for the cache."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        say(f"{error}: the copy in the cache is used, of commit {(commit_of(path) or '?')[:12]}")


def _differs(path: Path, etag: str) -> str:
    """What is wrong with the content by the hub's digest: a SHA-256 (LFS), or git's SHA-1 (some mirrors give a plain one); "" for nothing.

    Any other tag says nothing about the content.
    """
    with open(path, "rb") as file:
        if re.fullmatch("[0-9a-f]{64}", etag):
            found = {hashlib.file_digest(file, "sha256").hexdigest()}
        elif _COMMIT.fullmatch(etag):
            content = file.read()
            found = {hashlib.sha1(head + content, usedforsecurity=False).hexdigest() for head in (b"blob %d\0" % len(content), b"")}
        else:
            return ""
    return "" if etag in found else f"what arrived has the digest {min(found)[:12]}, not {etag[:12]}"


_TRY = "run the same command again, or check the network, HF_ENDPOINT and the proxy settings"


def _no_hub(why: str) -> HubError:
    return HubError(f"what answers at {_endpoint()} is not a hub ({why}); check HF_ENDPOINT and the proxy settings")


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def _timeout() -> float:
    from huggingface_hub import constants

    return constants.HF_HUB_ETAG_TIMEOUT
