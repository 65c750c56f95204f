"""Which weights a figure can be measured on here: the published ones, or else those that the table lets stand in for them."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from evalkit.bench.roofline import Shape
from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.lm.models import find
from evalkit.lm.native import device_of, free_memory
from evalkit.lm.outline import Outline
from evalkit.lm.whereabouts import folder_in_cache, headers_on_hub, on_disk
from evalkit.report.checkpoint import Checkpoint


@dataclass(frozen=True)
class Weights:
    """The model that is run, and where its headers are (None for random weights). `instead_of`: the published checkpoint's hub id.

    `precision` is that of the files, as the table says it; `is_here`: the weights are, with their headers.
    """

    model: ModelSpec
    path: Path | None
    is_here: bool
    precision: str = ""
    instead_of: str = ""

    @property
    def spec(self) -> str:
        return self.model.name

    @cached_property
    def outline(self) -> Outline:
        """Raises EvalkitError for a model that moe_lm cannot run."""
        return Outline(self.model, self.path)

    @property
    def description(self) -> str:
        """ "qwen2.5-coder-0.5b (Q4_K_M) for Qwen/Qwen2.5-Coder-0.5B-Instruct, here"."""
        precision = f" ({self.precision})" if self.precision else ""
        instead = f" for {self.instead_of}" if self.instead_of else ""
        return f"{self.spec}{precision}{instead}, {'here' if self.is_here else 'to be downloaded'}"


def weights_for(checkpoint: Checkpoint, model: ModelSpec, fetch: bool) -> Weights | str:
    """The published weights if they are here or on the hub, else the first stand-in that is; or why there are none, in one line.

    `fetch`: those on the hub are downloaded.
    """
    folder = folder_in_cache(checkpoint.hub) if on_disk(checkpoint.spec) is None else None
    found = _weights(str(folder) if folder else checkpoint.spec, checkpoint.precision, "", model, fetch)
    reason = f"{checkpoint.hub}: {found}" if isinstance(found, str) else ""
    for each in checkpoint.stand_ins if reason else ():
        found = _weights(each.name, each.precision, checkpoint.hub, model, fetch)
        if isinstance(found, Weights):
            break
        reason = f"{reason}; {each.name}: {found}"
    return found if isinstance(found, Weights) else reason


def _weights(spec: str, precision: str, instead_of: str, model: ModelSpec, fetch: bool) -> Weights | str:
    path, is_here = on_disk(spec), True
    try:
        if path is None and not spec.startswith("random:"):
            path, is_here = headers_on_hub(spec), False
            if fetch:
                path, is_here = find(spec).path, True
            elif path is None:
                return f"it is on the hub; what it takes is known once {spec} is downloaded, as the same command without --plan does"
        found = Weights(replace(model, spec=spec), path, is_here, precision, instead_of)
        return _why_too_large(found.outline.shape, model) or found
    except EvalkitError as error:
        return str(error)


def _why_too_large(shape: Shape, model: ModelSpec) -> str:
    """Why the weights do not fit into memory; "" if they do."""
    needed, free = shape.weights * shape.width, free_memory(device_of(model))
    if needed <= free:
        return ""
    smaller = "; --dtype bfloat16 halves it" if shape.width == 4 else ""
    return f"its weights take {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free{smaller}"
