"""Where a model's weights are: on this machine, or on the hub. No weights are downloaded, hashed or read.

For a plan; a run finds, downloads and checks them by `evalkit.lm.models`.
"""

import json
from functools import cache
from pathlib import Path

from evalkit.data.hub_files import Repository
from evalkit.data.sources import CACHE
from evalkit.errors import EvalkitError, first_line
from evalkit.lm.hub import HubId
from evalkit.lm.models import MODELS, local_path, require_known

TIMEOUT = 3.0  # seconds to wait for the hub


def on_disk(spec: str) -> Path | None:
    """The .gguf file or folder that a SPEC's weights are in; None where this machine has them not, or not all of them."""
    if spec in MODELS and (path := local_path(MODELS[spec])):
        return path
    if (path := Path(spec).expanduser()).exists():
        return path
    hub_id = _hub_id(spec)
    return _in_cache(hub_id) if hub_id else None


def folder_in_cache(hub: str) -> Path | None:
    """A folder of the checkpoint's name that the user has put beside the named models."""
    path = CACHE / "models" / hub.rpartition("/")[2]
    return path if (path / "config.json").is_file() else None


def headers_on_hub(spec: str) -> Path | None:
    """A folder with configuration and tokenizer alone, downloaded, of a model on the hub; None for a GGUF file, which has them inside.

    Raises EvalkitError, in one line, where the hub does not have the model, or does not answer.
    """
    require_known(spec)
    named, hub_id = MODELS.get(spec), _hub_id(spec)
    if hub_id is None:
        raise EvalkitError(f"{named.file} is not here; run `{named.install}`" if named else f"{spec} is not here")
    if reason := _unreachable():
        raise EvalkitError(f"the weights are not here, and {reason}")
    repository = Repository(hub_id.repo, hub_id.revision)
    listing = repository.listing()
    if hub_id.file:
        repository.require(listing, [hub_id.file])
        return None
    from moe_lm.checkpoint.folder import SETTINGS

    pinned = repository.at(listing.commit)
    files = [pinned.file(name) for name in SETTINGS if name in listing.sizes]
    if not files or files[0].name != "config.json":
        raise EvalkitError(f"{repository} has no config.json")
    return files[0].parent


def _hub_id(spec: str) -> HubId | None:
    named = MODELS.get(spec)
    return HubId(*named.hub, named.file) if named and named.hub else None if named else HubId.parse(spec)


def _in_cache(model: HubId) -> Path | None:
    from huggingface_hub import constants

    repository = Repository(model.repo, model.revision)
    if model.file:
        return repository.cached(model.file)
    config, index = repository.cached("config.json"), repository.cached(constants.SAFETENSORS_INDEX_FILE)
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values()) if index else {constants.SAFETENSORS_SINGLE_FILE}
    except (OSError, ValueError, LookupError, AttributeError):  # a run says what is wrong with it
        return None
    return config.parent if config and all(map(repository.cached, names)) else None


@cache
def _unreachable() -> str:
    """Why the hub does not answer, asked once for all models, and without the patience of a download; "" where it does."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception as error:  # of the HTTP library, which is another one for another huggingface_hub
        return f"the hub cannot be reached ({first_line(error)})"
    return ""
