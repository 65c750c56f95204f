"""Checkpoints from the hub: "org/repo[@revision]" is a folder, "org/repo[@revision]:FILE.gguf" a GGUF file of it.

Only the files that moe_lm reads are downloaded, config.json first: a model that it refuses costs none of its weights.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from evalkit.errors import EvalkitError, first_line

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

    Raises EvalkitError where the hub has no such model, and ModelError where config.json says that moe_lm can't run it.
    """
    from huggingface_hub import snapshot_download

    from moe_lm import known

    if model.file:
        return _gguf(model, model.file)
    with _available(model):
        config = _optional(model, "config.json")
        if config is None:
            raise EvalkitError(f"model {model} has no config.json; a GGUF file of it is named {model}:FILE.gguf")
        known.in_folder(config.parent)
        # the commit that config.json is of, even if the branch moves on
        revision = config.parent.name if config.parent.parent.name == "snapshots" else model.revision
        pinned = HubId(model.repo, revision, None)
        return Path(snapshot_download(model.repo, revision=revision, allow_patterns=[*_settings(), *_weights(pinned)]))


def for_transformers(model: HubId) -> Path:
    """The file, or a folder with the weights and all settings. Raises EvalkitError where the hub has no such model."""
    from huggingface_hub import snapshot_download

    if model.file:
        return _gguf(model, model.file)
    with _available(model):
        return Path(
            snapshot_download(
                model.repo, revision=model.revision, allow_patterns=_FOR_TRANSFORMERS, ignore_patterns=["consolidated*.safetensors"]
            )
        )


def commit_of(path: Path) -> str | None:
    """The commit that a file or folder of the hub's cache is of; None for any other."""
    return next((inner.name for inner, outer in pairwise((path, *path.parents)) if outer.name == "snapshots"), None)


def _settings() -> list[str]:
    from moe_lm.checkpoint.folder import SETTINGS

    return [*SETTINGS, "adapter_config.json"]


def _weights(model: HubId) -> list[str]:
    """The names of the safetensors files that moe_lm reads, and of the index that names them."""
    from moe_lm.checkpoint.shards import INDEX, SINGLE, read_index

    index = _optional(model, INDEX)
    if index is not None:
        return [INDEX, *sorted(set(read_index(index).values()))]
    return [SINGLE] if _optional(model, SINGLE) else ["model-*-of-*.safetensors"]


def _optional(model: HubId, name: str) -> Path | None:
    """A file of the repository; None where it has none of this name."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(model.repo, name, revision=model.revision))
    except EntryNotFoundError as error:
        # without a network, a file that is not in the cache may still be on the hub: this is then no answer about config.json
        if isinstance(error, FileNotFoundError) and name == "config.json":
            raise
        return None


def _gguf(model: HubId, file: str) -> Path:
    """The file; all its parts, where it is one of several."""
    from huggingface_hub import hf_hub_download

    part = _PART.fullmatch(file)
    count = int(part["count"]) if part else 1
    names = [f"{part['stem']}-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1)] if part else [file]
    if file not in names:
        raise EvalkitError(f"model {model}: {file} is not one of {count} parts")
    with _available(model):
        paths = {name: Path(hf_hub_download(model.repo, name, revision=model.revision)) for name in names}
        return paths[file]


@contextmanager
def _available(model: HubId) -> Iterator[None]:
    from moe_lm.errors import ModelError

    try:
        yield
    except (EvalkitError, ModelError):
        raise
    except Exception as error:  # the library raises many kinds, all of which mean that a file is not available
        raise EvalkitError(
            f"model {model} cannot be downloaded from the hub ({first_line(error)}); check the name and the network"
        ) from None
