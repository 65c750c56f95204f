"""Tasks that compute their own figures: groups with weights of their own, and metrics that are not a mean over documents."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evalkit.stats.estimate import Estimate
from evalkit.tasks.task import Doc, Scored, Task


@dataclass(frozen=True, slots=True)
class Aggregated:
    """A task's figures, those of its groups and of their tasks. `without`: metrics that have no figure, and why."""

    metrics: Mapping[str, Estimate]
    groups: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    subjects: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)


class AggregatedTask(Task):
    """A task whose figures are not all means over its documents. Which are, it knows once it is loaded."""

    @abstractmethod
    def is_mean(self, metric: str) -> bool:
        """Is this metric of a document averaged?"""

    @abstractmethod
    def is_lower_better(self, metric: str) -> bool:
        """Is a lower value of this metric a better one?"""

    @abstractmethod
    def aggregate(self, scored: Sequence[tuple[Doc, Scored]]) -> Aggregated:
        """The figures of these documents."""
