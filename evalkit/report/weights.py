"""Do a run's weights count as those that a figure was published for? Decided by what run.json records, not by names alone."""

from dataclasses import dataclass

from evalkit.lm.hub import HubId
from evalkit.lm.models import MODELS
from evalkit.record.schema import ModelInfo
from evalkit.report.checkpoint import Checkpoint, StandIn

SHORTEST_COMMIT = 7


@dataclass(frozen=True, slots=True)
class Weights:
    """How the weights of a run stand to the published ones.

    `other` is why they do not count as the same; "" if they do. `stand_in`: they count though they are others ("Q4_K_M for bfloat16"),
    for the reason `because`. `remark`: they are the same as far as is known, and what a reader should know.
    """

    other: str = ""
    stand_in: str = ""
    because: str = ""
    remark: str = ""


def weights_of(model: ModelInfo, checkpoint: Checkpoint | None) -> Weights:
    """The weights of a run against a published figure's checkpoint."""
    if checkpoint is None or not checkpoint.is_named_by(model.spec):
        return Weights(other=f"{model.spec}, published for {checkpoint.hub if checkpoint else 'a model that the table does not identify'}")
    held = model.weights
    if stand_in := checkpoint.stand_in(model.spec):
        return _of_stand_in(stand_in, checkpoint, model)
    revision = held.revision if held and held.revision else _revision(model.spec)
    if checkpoint.revision and revision and not checkpoint.revision.startswith(revision):
        return Weights(other=f"revision {revision[:12]}, published for {checkpoint.revision[:12]}")
    if held and checkpoint.precision and held.precision != checkpoint.precision:
        return Weights(other=f"{held}, published in {checkpoint.precision}")
    if held is None and model.server:
        return Weights(remark="the weights are known by their name at the server")
    if held is None and model.engine.startswith("python"):
        return Weights(remark="answers of a Python class, whose weights are known by name alone")
    return Weights(remark=_computed(checkpoint.precision, model.dtype))


def _of_stand_in(stand_in: StandIn, checkpoint: Checkpoint, model: ModelInfo) -> Weights:
    held, named = model.weights, MODELS.get(stand_in.name)
    expected = stand_in.precision
    if held and (held.precision != expected or (named and held.sha256 and held.sha256 != named.sha256)):
        return Weights(other=f"{held}, not the {expected} file that the table knows as {stand_in.name}")
    arithmetic = ", computed in int8," if model.dtype == "int8" else ""
    instead = f"{held or expected}{arithmetic} for {checkpoint.precision or 'the published weights'}"
    if not stand_in.counts_because:
        return Weights(other=instead)
    return Weights(stand_in=instead, because=stand_in.counts_because)


def _revision(spec: str) -> str:
    """The commit that a hub id names; "" for none, and for a branch or tag, which may have moved."""
    revision = (hub_id.revision if (hub_id := HubId.parse(spec)) else None) or ""
    return revision if len(revision) >= SHORTEST_COMMIT and set(revision) <= set("0123456789abcdef") else ""


def _computed(precision: str, dtype: str | None) -> str:
    """That a checkpoint's own weights were computed in another precision: the same weights, other rounding."""
    return f"{precision} weights computed in {dtype}" if dtype and precision and dtype != precision else ""
