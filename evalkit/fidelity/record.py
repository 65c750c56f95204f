"""fidelity.json, schema 1, as frozen dataclasses; results/README.md says what each key means."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from evalkit.codec import OPTIONAL
from evalkit.record.schema import DataInfo, Environment, ModelInfo
from evalkit.stats.paired import Difference

SCHEMA: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean over token positions, with its 95% interval clustered by document; None where a single cluster tells no spread."""

    value: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstDoc:
    """A document among those with the largest mean divergence, in nats."""

    id: str
    mean: float
    positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """KL(reference || copy) in nats over the whole vocabulary, at each of `positions`; `same_top`: the share where both models' most
    likely token is the same.
    """

    positions: int
    clusters: int
    mean: Mean
    median: float
    p90: float
    p99: float
    max: float
    same_top: Mean
    worst: tuple[WorstDoc, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """exp of the mean negative log-probability of the scored `tokens`; `ratio`: the copy's over the reference's."""

    tokens: int
    reference: float
    copy: float
    ratio: Mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """Rows that one vocabulary has and the other lacks, and the largest probability that they had at any position.

    Both distributions are taken over the rows that both have.
    """

    reference_rows: int
    copy_rows: int
    largest_mass: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers of a task, or of one set of a suite: the difference of the scores, and how many of `n` documents' answers changed.

    `difference` is None for a reason that `why_no_score` gives. Of right-or-wrong scores the changes are told apart; `other` are answers
    that changed and score the same.
    """

    name: str
    metric: str
    n: int
    difference: Difference | None
    why_no_score: str = field(default="", metadata=OPTIONAL)
    right_to_wrong: int | None
    wrong_to_right: int | None
    other: int
    flipped: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFidelity:
    """One copy on one task; `empty`: documents that the reference answers with no token, so that nothing is scored there."""

    divergence: Divergence
    perplexity: Perplexity
    padding: Padding | None = field(default=None, metadata=OPTIONAL)
    answers: tuple[Answers, ...]
    empty: int = field(default=0, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Measured in the run. `scored_tokens` are those of prompts and answers, each shared prompt counted for each request."""

    scored_tokens: int = 0
    scored_seconds: float = 0.0
    generated_tokens: int = 0
    generated_seconds: float = 0.0

    def __add__(self, other: "Speed") -> "Speed":
        return Speed(
            scored_tokens=self.scored_tokens + other.scored_tokens,
            scored_seconds=self.scored_seconds + other.scored_seconds,
            generated_tokens=self.generated_tokens + other.generated_tokens,
            generated_seconds=self.generated_seconds + other.generated_seconds,
        )

    @property
    def scored_rate(self) -> float | None:
        return self.scored_tokens / self.scored_seconds if self.scored_seconds else None

    @property
    def generated_rate(self) -> float | None:
        return self.generated_tokens / self.generated_seconds if self.generated_tokens else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model, the size of its files in bytes, and its speed. `name` is what tables call it."""

    name: str
    info: ModelInfo
    file_bytes: int | None
    speed: Speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy on every task."""

    model: Measured
    tasks: Mapping[str, TaskFidelity]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """What a task asks: its protocol, a digest of its settings, documents asked and there are, and the data's digest."""

    protocol: str
    protocol_sha256: str
    n: int
    n_total: int
    data: DataInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """The whole of fidelity.json. `status` is incomplete while copies are left to measure."""

    schema: Literal[1] = SCHEMA
    kind: Literal["fidelity"] = "fidelity"
    status: Literal["complete", "incomplete"]
    command: str
    started: str
    limit: int | None
    tasks: Mapping[str, TaskData]
    reference: Measured
    copies: tuple[Copy, ...]
    environment: Environment
