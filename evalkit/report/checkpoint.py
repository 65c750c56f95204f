"""Whose weights a published figure is of, and which at hand may stand in for them."""

from dataclasses import dataclass, field
from pathlib import Path

from evalkit.codec import key
from evalkit.lm.models import MODELS


@dataclass(frozen=True, slots=True)
class StandIn:
    """Weights at hand in place of the published ones: a SPEC of `--model`, as the name in `evalkit ls models`, and their precision.

    `counts_because` is why a figure of theirs counts as one of the published weights; "" if it does not.
    """

    name: str
    precision: str
    counts_because: str = ""

    def is_named_by(self, spec: str) -> bool:
        """Whether a run's SPEC is its name, or the file that a named model is."""
        file = MODELS[self.name].file if self.name in MODELS else self.name
        return spec == self.name or Path(spec.rpartition(":")[2]).name == Path(file).name


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights that a figure was published for: a hub id, its revision if it is known, the precision that the hub has them in.

    `stand_ins` may be measured where these cannot be had, the preferred one first.
    """

    hub: str
    precision: str = ""
    revision: str = ""
    stand_ins: tuple[StandIn, ...] = field(default=(), metadata=key("stand_in"))

    @property
    def spec(self) -> str:
        """As `--model` takes it."""
        return f"{self.hub}@{self.revision}" if self.revision else self.hub

    def stand_in(self, spec: str) -> StandIn | None:
        """The stand-in that a run's SPEC names."""
        return next((each for each in self.stand_ins if each.is_named_by(spec)), None)

    def is_named_by(self, spec: str) -> bool:
        """Whether a run's SPEC names it: the hub id at any revision, a folder with the checkpoint's name, or a stand-in."""
        if spec.startswith("random:"):
            return False  # its configuration, not its weights
        if spec in MODELS:  # such a name may be a folder's too: qwen2.5-coder-1.5b is the Instruct model, and not the base model
            return self.stand_in(spec) is not None
        name = spec.rstrip("/").split("@")[0]
        folder = self.hub.rpartition("/")[2].lower()
        cached = f"models--{self.hub.replace('/', '--')}" in Path(name).parts  # the hub's cache
        return name == self.hub or cached or Path(name).name.lower() == folder or self.stand_in(spec) is not None
