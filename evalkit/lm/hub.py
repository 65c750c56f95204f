"""Checkpoints from the hub: "org/repo[@revision]" is a folder, "org/repo[@revision]:FILE.gguf" a GGUF file of it.

Only the files that moe_lm reads are downloaded, config.json first: a model that it refuses costs none of its weights.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path

from evalkit.data.hub_files import HubError, Listing, Repository, Unavailable, commit_of, say_cached
from evalkit.errors import EvalkitError

_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^:]+))?(:(?P<file>.+\.gguf))?")
_PART = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")  # of a GGUF file that llama.cpp has split
# what transformers reads, and nothing that can run code
_FOR_TRANSFORMERS = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]


@dataclass(frozen=True, slots=True)
class HubId:
    """What a SPEC names on the hub; `file` is the GGUF file, None for a folder."""

    repo: str
    revision: str | None
    file: str | None

    @classmethod
    def parse(cls, spec: str) -> "HubId | None":
        """None where the SPEC does not have this form."""
        match = _ID.fullmatch(spec)
        return cls(match["repo"], match["revision"], match["file"]) if match else None

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "") + (f":{self.file}" if self.file else "")


def for_moe_lm(model: HubId) -> Path:
    """The file, or a folder with the files that moe_lm reads.

    Raises HubError where they can't be had, and ModelError where config.json says that moe_lm can't run it.
    """
    from moe_lm import known

    repo = Repository(model.repo, model.revision)
    if model.file:
        return _gguf(repo, model.file)
    try:
        listing = repo.listing()
    except Unavailable as error:
        return _cached(repo, error, _settings())
    if "config.json" not in listing.sizes:
        raise EvalkitError(f"{repo} has no config.json; {_its_gguf_files(model, listing)}")
    pinned = repo.at(listing.commit)  # all files are of one commit, even if the branch moves on
    known.in_folder(pinned.file("config.json").parent)
    # the weights last: where they are complete, the settings are
    return _snapshot(repo, listing, [*(name for name in _settings() if name in listing.sizes), *_weights(pinned, listing)])


def for_transformers(model: HubId) -> Path:
    """The file, or a folder with the weights and all settings. Raises HubError where they can't be had."""
    repo = Repository(model.repo, model.revision)
    if model.file:
        return _gguf(repo, model.file)
    try:
        listing = repo.listing()
    except Unavailable as error:
        return _cached(repo, error, _FOR_TRANSFORMERS)
    if "config.json" not in listing.sizes:
        raise EvalkitError(f"{repo} has no config.json; {_its_gguf_files(model, listing)}")
    wanted = [name for name in listing.sizes if any(fnmatch(name, pattern) for pattern in _FOR_TRANSFORMERS)]
    wanted = [name for name in wanted if not fnmatch(name, "consolidated*.safetensors")]
    return _snapshot(repo, listing, sorted(wanted, key=lambda name: (name.endswith(".safetensors"), name)))


def _snapshot(repo: Repository, listing: Listing, names: Sequence[str]) -> Path:
    """The folder of the commit, with these files; config.json is one of them."""
    repo.require(listing, names)
    pinned = repo.at(listing.commit)
    for name in names:
        pinned.file(name)
    repo.file("config.json")  # so that the cache knows the branch's commit without the hub
    return pinned.file("config.json").parent


def _cached(repo: Repository, error: Unavailable, patterns: Sequence[str]) -> Path:
    """The folder that the cache has, where the hub can't be asked. Raises HubError where it is known to lack a file."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    config = repo.cached("config.json")
    if config is None:
        raise error
    try:  # of a folder that another program downloaded, the library may know that it is incomplete
        snapshot_download(repo.id, revision=commit_of(config), allow_patterns=[*patterns], local_files_only=True)
    except LocalEntryNotFoundError:
        raise HubError(f"{error}; the cache has only a part of its files") from None
    say_cached(error, config)
    return config.parent


def _settings() -> list[str]:
    from moe_lm.checkpoint.folder import SETTINGS

    return [*SETTINGS, "adapter_config.json"]


def _weights(pinned: Repository, listing: Listing) -> list[str]:
    """The names of the safetensors files that moe_lm reads, and of the index that names them."""
    from moe_lm.checkpoint.shards import INDEX, SINGLE, read_index

    if INDEX in listing.sizes:
        return [INDEX, *sorted(set(read_index(pinned.file(INDEX)).values()))]
    return [SINGLE] if SINGLE in listing.sizes else [name for name in listing.sizes if fnmatch(name, "model-*-of-*.safetensors")]


def _gguf(repo: Repository, file: str) -> Path:
    """The file; all its parts, where it is one of several."""
    part = _PART.fullmatch(file)
    count = int(part["count"]) if part else 1
    names = [f"{part['stem']}-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1)] if part else [file]
    if file not in names:
        raise EvalkitError(f"{repo}: {file} is not one of {count} parts")
    try:
        listing = repo.listing()
    except Unavailable as error:
        cached = {name: repo.cached(name) for name in names}
        if (path := cached[file]) and all(cached.values()):
            say_cached(error, path)
            return path
        raise
    if missing := [name for name in names if name not in listing.sizes]:
        raise EvalkitError(f"{repo} has no file {missing[0]}; {_its_gguf_files(HubId(repo.id, repo.revision, file), listing)}")
    repo.require(listing, names)
    pinned = repo.at(listing.commit)
    paths = {name: pinned.file(name) for name in names}
    repo.file(file)  # so that the cache knows the branch's commit without the hub
    return paths[file]


def _its_gguf_files(model: HubId, listing: Listing) -> str:
    """The way out where another file is meant."""
    files = sorted(name for name in listing.sizes if name.endswith(".gguf"))
    if not files:
        return "and no GGUF file: it can't be run"
    close = get_close_matches(model.file or "", files, n=1) or files[:1]
    also = f" (one of {len(files)} GGUF files)" if len(files) > 1 else ""
    return f"--model {HubId(model.repo, model.revision, close[0])} names a GGUF file of it{also}"
