"""run.json, schema 1, as frozen dataclasses; results/README.md says what each key means. Fields stand in the file's order.

Files are read and written by `evalkit.codec`: a field without a default must be there, one marked OPTIONAL is left out
while it holds its default, and an unknown key is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from evalkit.codec import OPTIONAL
from evalkit.stats.estimate import Estimate
from evalkit.tasks import SuiteCell

SCHEMA: Final = 1
Metrics = Mapping[str, Estimate]  # by the metric's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """A model's parameters: all of them, and those that one token uses."""

    total: int
    activated: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """The checkpoint's files: what precision they hold the weights in (bfloat16, Q4_K_M), how many `bits` a weight on average, the digest
    over all files (of a single one, what sha256sum prints), and the hub's commit if they are from there.
    """

    precision: str
    bits: float
    sha256: str
    revision: str | None = field(default=None, metadata=OPTIONAL)

    def __str__(self) -> str:
        # "bfloat16" tells its bits; a GGUF file named Q4_K_M may hold a good part of its tensors in other types
        return self.precision if self.precision.endswith(f"{self.bits:.0f}") else f"{self.precision} ({self.bits:.1f} bits a weight)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The model that answered. What its engine does not know is None; the fields from `server` on are a remote engine's."""

    spec: str
    fingerprint: str
    engine: str
    family: str | None = None
    parameters: Parameters | None = None
    weights: StoredWeights | None = field(default=None, metadata=OPTIONAL)
    dtype: str | None = None
    device: str | None = None
    kernel: str | None = field(default=None, metadata=OPTIONAL)
    layout_invariant: bool | None = field(default=None, metadata=OPTIONAL)
    max_seq_len: int | None = field(default=None, metadata=OPTIONAL)
    chat_template: str | None = field(default=None, metadata=OPTIONAL)
    chat_template_args: Mapping[str, Any] = field(default_factory=dict, metadata=OPTIONAL)
    notices: tuple[str, ...] = field(default=(), metadata=OPTIONAL)  # how the checkpoint was read, where that may surprise
    server: str | None = field(default=None, metadata=OPTIONAL)
    server_version: str | None = field(default=None, metadata=OPTIONAL)
    served: Mapping[str, Any] = field(default_factory=dict, metadata=OPTIONAL)  # the server's own entry for the model
    identity: str | None = field(default=None, metadata=OPTIONAL)

    @property
    def computed_by(self) -> str:
        """The kernel where it is known, or else the engine."""
        return f"kernel {self.kernel}" if self.kernel else f"engine {self.engine}"

    @property
    def how(self) -> str:
        """Engine, dtype and device, as far as they are known."""
        return ", ".join(text for text in (self.engine, self.dtype, self.device) if text)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInfo:
    """Where documents came from: `source` is dir, hub, sample, package or code; `sha256` is over the rows read, or made.

    `official`: are the task's tables row for row those that `evalkit data verify` knows? None where it knows none, or not all are here.
    """

    source: str
    revision: str | None = None
    sha256: str
    official: bool | None = field(default=None, metadata=OPTIONAL)

    def __str__(self) -> str:
        return f"{self.source} {self.sha256[:8]}"


COUNTED = {  # in the order in which they are told
    "extraction_failed": "answers had nothing to extract; they count as wrong",
    "truncated": "prompts did not fit and were truncated",
    "cut_by_protocol": "prompts were cut to the length that the protocol allows",
    "boundary_merged": "questions had a token merged across context and continuation",
    "stopped_by_length": "answers reached the length limit",
    "empty": "documents have an empty answer, which counts as it stands",
    "unanswered": "documents were refused by the server's content filter; they count as wrong",
}
MAX_EMPTY = 0.5  # share of documents without an answer but blanks: with more of them it is the set-up that is measured
MAX_UNANSWERED = 0.01  # share of documents that a server refused to answer: with more, the figure depends on which ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many documents had a problem. Those whose extraction failed, that are empty or unanswered count as wrong; unscored ones wait
    for a judge; those cut by their protocol were so in the published run too.
    """

    extraction_failed: int
    truncated: int
    boundary_merged: int
    stopped_by_length: int
    unscored: int
    empty: int = field(default=0, metadata=OPTIONAL)
    unanswered: int = field(default=0, metadata=OPTIONAL)
    cut_by_protocol: int = field(default=0, metadata=OPTIONAL)

    def remarks(self, n: int) -> Iterator[str]:
        """What is told of n documents with these problems, a line each; of unscored ones it depends on who asks."""
        for name, text in COUNTED.items():
            if count := getattr(self, name):
                yield f"{count:,} of {n:,} {text}"

    def why_no_score(self, n: int) -> str:
        """Why n documents with these problems have no score; "" where they have one."""
        if self.unanswered > MAX_UNANSWERED * n:
            return f"the server refused to answer {self.unanswered:,} of {n:,} documents, more than {MAX_UNANSWERED:.0%}"
        if self.empty > MAX_EMPTY * n:
            return f"{self.empty:,} of {n:,} documents have an empty answer, more than {MAX_EMPTY:.0%}"
        return ""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens that a back-end computed, and tokens of requests that prefix sharing spared it."""

    computed: int = 0
    shared: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How many cells a suite has, how many have data, how many have all of it; why each of the others is incomplete, by name."""

    cells: int
    measured: int
    complete: int
    incomplete: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSpent:
    """Over all sessions of a judge: requests (tries included), tokens billed, and the cost where prices are known."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Who judged and how. Of judgments from a file only `model` and `rating` are known."""

    model: str
    snapshot: str | None = None
    url: str | None = field(default=None, metadata=OPTIONAL)
    temperature: float | None = field(default=None, metadata=OPTIONAL)
    max_tokens: int | None = field(default=None, metadata=OPTIONAL)
    answered_as: Mapping[str, int] | None = field(default=None, metadata=OPTIONAL)  # what the server called itself, how often
    system_fingerprints: Mapping[str, int] | None = field(default=None, metadata=OPTIONAL)
    prompts_sha256: str | None = field(default=None, metadata=OPTIONAL)
    spent: JudgeSpent | None = field(default=None, metadata=OPTIONAL)
    answers_protocol_sha256: str | None = field(default=None, metadata=OPTIONAL)  # the entry's before it was judged
    rating: str
    repeats: int | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeCounts:
    """What became of the judgments. `published` and `strict` count those with a rating by that reader; the last three, a file's only."""

    judgments: int
    failed: int
    published: int
    strict: int
    readers_differ: int
    outside_scale: int | None = field(default=None, metadata=OPTIONAL)
    outside_1_to_10: int | None = field(default=None, metadata=OPTIONAL)  # its name in older files
    repeated: int | None = field(default=None, metadata=OPTIONAL)
    missing: int | None = field(default=None, metadata=OPTIONAL)
    score_is_not_its_texts: int | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How much the judge differs from itself: the score of each repeat, their standard deviation and range."""

    scores: tuple[float, ...]
    stdev: float
    range: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeEntry(Judge):
    """The judge of a task's figures. `max_failed`: the share of judgments that they may lack; `spread` is None for one repeat."""

    max_failed: float | None = field(default=None, metadata=OPTIONAL)
    spread: Spread | None = None
    counts: JudgeCounts
    score_without_repeats: Estimate | None = field(default=None, metadata=OPTIONAL)

    @property
    def left_out(self) -> int:
        """Judgments without a rating by the reader that the figures are by."""
        return self.counts.judgments - (self.counts.strict if self.rating == "strict" else self.counts.published)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOutcome:
    """Games between two runs' answers. `inconsistent` is the share whose winner changed with the order, None without games."""

    games: int
    win: int
    loss: int
    tie: int
    no_verdict: int
    win_rate_adjusted: Estimate | None = field(default=None, metadata=OPTIONAL)  # ties count half
    inconsistent: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opponent:
    """The run that a pairwise comparison is against."""

    run: str
    spec: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairwise:
    """A pairwise comparison with another run, by category and overall."""

    against: Opponent
    judge: Judge
    overall: PairOutcome
    groups: Mapping[str, PairOutcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEntry:
    """One task of a run: its figures and everything that they depend on."""

    file: str | None = field(default=None, metadata=OPTIONAL)  # of a task of one's own: its file, as it was named
    protocol: str
    protocol_sha256: str
    headline: str
    averaging: Literal["micro", "macro"]
    metrics: Metrics  # empty until a judged task is judged
    groups: Mapping[str, Metrics]
    n: int
    n_total: int
    counts: Counts
    in_shots: tuple[str, ...] = field(default=(), metadata=OPTIONAL)  # documents that stand among their own worked examples
    subjects: Mapping[str, Metrics] = field(default_factory=dict, metadata=OPTIONAL)
    cells: tuple[SuiteCell, ...] = field(default=(), metadata=OPTIONAL)
    coverage: Coverage | None = field(default=None, metadata=OPTIONAL)
    signatures: Mapping[str, str] = field(default_factory=dict, metadata=OPTIONAL)
    without: Mapping[str, str] = field(default_factory=dict, metadata=OPTIONAL)  # metrics that have no figure, and why
    lower_is_better: tuple[str, ...] = field(default=(), metadata=OPTIONAL)  # metrics
    no_shares: tuple[str, ...] = field(default=(), metadata=OPTIONAL)  # metrics in a unit of their own: perplexities, BLEU from 0 to 100
    data: DataInfo
    seconds: float
    tokens: Tokens
    judge: JudgeEntry | None = field(default=None, metadata=OPTIONAL)
    pairwise: tuple[Pairwise, ...] = field(default=(), metadata=OPTIONAL)

    @property
    def figure(self) -> Estimate | None:
        """The headline metric; None where there is none yet."""
        return self.metrics.get(self.headline)

    def in_own_unit(self, metric: str) -> bool:
        """Is the metric neither a share of 1 nor a judge's rating, but a perplexity or the like?"""
        return metric in self.no_shares

    def is_share(self, metric: str) -> bool:
        """Is the metric a share of 1, which is printed in percent?"""
        return self.judge is None and not self.in_own_unit(metric)

    @property
    def size(self) -> str:
        """ "1,319", or "200 of 1,319"; "60 with acc, of 1,319" where the other documents lack the headline metric."""
        whole = f"{self.n:,}" if self.n == self.n_total else f"{self.n:,} of {self.n_total:,}"
        if self.figure is None or self.judge or self.cells or self.figure.n >= self.n:
            return whole
        return f"{self.figure.n:,} with {self.headline}, of {whole}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where a run happened. `git` is the checkout's commit, None for an installed package."""

    python: str
    torch: str
    platform: str
    cpu: str
    cores: int | None
    gpu: str | None
    git: str | None
    sandbox: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Shard `index` (from 1) `of` a run: `finished` once all its own documents are answered.

    `plan_sha256` is over all that the whole run asks, `settings` are RunConfig's that decide it, and `evalkit` is the version.
    """

    index: int
    of: int
    finished: bool
    plan_sha256: str
    evalkit: str
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedShard:
    """One of the shards that a run was merged of: where and when it was answered."""

    index: int
    command: str
    started: str
    seconds: float
    environment: Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run. Its tasks go by the task's name, or task@protocol where it holds a task under several."""

    schema: Literal[1] = SCHEMA
    name: str
    status: Literal["complete", "incomplete"]
    shard: Shard | None = field(default=None, metadata=OPTIONAL)  # such a run is never complete, and its tasks have no figures
    command: str
    started: str
    seconds: float
    limit: int | None
    seed: int
    model: ModelInfo
    tasks: Mapping[str, TaskEntry]
    environment: Environment
    merged: tuple[MergedShard, ...] = field(default=(), metadata=OPTIONAL)

    @property
    def is_complete(self) -> bool:
        return self.status == "complete"


def task_of(key: str) -> str:
    """The task's name of a run's key: "mmlu" of "mmlu@cloze"."""
    return key.partition("@")[0]
