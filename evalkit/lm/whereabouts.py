"""Where a model's weights are: on this machine, or on the hub. Nothing is downloaded, hashed or read.

For a plan; a run finds, downloads and checks them by `evalkit.lm.models`.
"""

import json
from functools import cache
from pathlib import Path

from evalkit.data.sources import CACHE
from evalkit.errors import EvalkitError, first_line
from evalkit.lm.hub import HubId
from evalkit.lm.models import MODELS, local_path, require_known

TIMEOUT = 3.0  # seconds to wait for the hub


def on_disk(spec: str) -> Path | None:
    """The .gguf file or folder that a SPEC's weights are in; None where this machine has them not, or not all of them."""
    if spec in MODELS:
        return local_path(MODELS[spec])
    if (path := Path(spec).expanduser()).exists():
        return path
    hub_id = HubId.parse(spec)
    return _in_cache(hub_id) if hub_id else None


def folder_in_cache(hub: str) -> Path | None:
    """A folder of the checkpoint's name that the user has put beside the named models."""
    path = CACHE / "models" / hub.rpartition("/")[2]
    return path if (path / "config.json").is_file() else None


def _in_cache(model: HubId) -> Path | None:
    from huggingface_hub import constants, try_to_load_from_cache

    def cached(name: str) -> Path | None:
        path = try_to_load_from_cache(model.repo, name, revision=model.revision)
        return Path(path) if isinstance(path, str) else None

    if model.file:
        return cached(model.file)
    config, index = cached("config.json"), cached(constants.SAFETENSORS_INDEX_FILE)
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values()) if index else {constants.SAFETENSORS_SINGLE_FILE}
    except (OSError, ValueError, LookupError, AttributeError):  # a run says what is wrong with it
        return None
    return config.parent if config and all(map(cached, names)) else None


@cache
def why_not_on_hub(spec: str) -> str:
    """Why a SPEC cannot be downloaded; "" where the hub has it."""
    named = MODELS.get(spec)
    if named and not named.hub:
        return f"{named.file} is not here; run `{named.install}`"
    try:
        require_known(spec)
    except EvalkitError as error:
        return str(error)
    hub_id = HubId(*named.hub, named.file) if named and named.hub else HubId.parse(spec)
    if hub_id is None:
        return f"{spec} is not here"
    if reason := _unreachable():
        return f"the weights are not here, and {reason}"
    return _why_no_repository(hub_id)


@cache
def _unreachable() -> str:
    """Why the hub does not answer; asked once, whatever the number of models."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception as error:  # of the HTTP library, which is another one for another huggingface_hub
        return f"the hub cannot be reached ({first_line(error)})"
    return ""


def _why_no_repository(model: HubId) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        HfApi().model_info(model.repo, revision=model.revision, timeout=TIMEOUT)
    except GatedRepoError:
        return f"{model.repo} is gated: ask for access on its page and set HF_TOKEN"
    except RepositoryNotFoundError:
        return f"the hub has no {model.repo}, or it is private: set HF_TOKEN"
    except RevisionNotFoundError:
        return f"{model.repo} has no revision {model.revision}"
    except Exception as error:  # as above
        return f"the hub does not answer for {model.repo} ({first_line(error)})"
    return ""
