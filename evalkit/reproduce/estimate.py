"""How long the rest of a run takes: its work at this device's speed, or better, at the pace of what is answered already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalkit.lm.pass_speed import Like, PassSpeed
from evalkit.reproduce import cost, lengths
from evalkit.reproduce.cells import Cell
from evalkit.reproduce.progress import Progress
from evalkit.reproduce.weights import Weights
from evalkit.runner.workload import ENOUGH, Workload
from evalkit.tasks import CodeTask
from evalkit.tasks.registry import resolve


@dataclass(frozen=True, slots=True)
class Job:
    """A task to be run on a model, and what its run has answered so far. `key` is another for other weights, rows, protocol or limit."""

    weights: Weights
    task: str
    key: str
    cells: tuple[Cell, ...]
    work: Workload
    progress: Progress

    @property
    def left(self) -> int:
        """Requests without an answer."""
        return max(0, self.work.requests - self.progress.answered)

    @property
    def is_measured(self) -> bool:
        """Are there enough answers, or all?"""
        return self.progress.answered >= min(ENOUGH, self.work.requests)

    @property
    def size(self) -> float:
        """Its work in weights times tokens, whatever is answered already."""
        shape, work = self.weights.outline.shape, self.work
        new = work.answers * self._likely_length
        body = shape.always + shape.sparse_layers * shape.top_k * shape.expert
        return body * (work.prompt_tokens + new) + shape.head * (work.scored_tokens + new)

    @property
    def programs(self) -> int:
        """Answers that the sandbox runs."""
        return self.work.answers if isinstance(resolve(self.task), CodeTask) else 0

    @property
    def context(self) -> float:
        """Mean tokens of a prompt."""
        return (self.work.prompt_tokens + self.work.shared_tokens) / max(1, self.work.requests)

    def lengths(self, count: int) -> list[float]:
        """Of so many answers: as long as those that are there, or as `lengths.unseen` has them."""
        seen = self.progress.lengths
        if seen and self.is_measured:
            return [float(seen[i % len(seen)]) for i in range(count)]
        return lengths.unseen(count, self._likely_length, self._limit)

    @property
    def _limit(self) -> float:
        """Of an answer, in tokens."""
        return self.work.max_new_tokens / max(1, self.work.answers)

    @property
    def _likely_length(self) -> float:
        return lengths.mean_length(self.task, self._limit)

    def seconds(self, speed: PassSpeed, share: float, lengths: Sequence[float]) -> float:
        """At the device's speed: this share of the prompts, and answers of these lengths."""
        shape = self.weights.outline.shape
        return share * cost.prefill(self.work, self.context, shape, speed) + cost.decode(lengths, self.context, shape, speed)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds that are left, and of the whole; `basis` says what they were taken from."""

    left: float
    whole: float
    basis: str


class Estimates:
    """Of jobs, at this device's `speeds`, one for each `Like` of them."""

    def __init__(self, speeds: Mapping[Like, PassSpeed], jobs: Sequence[Job]):
        self.speeds, self.jobs = speeds, jobs

    def of(self, job: Job, with_loading: bool) -> Estimate:
        """The estimate of one of the jobs."""
        work, left, speed = job.work, job.left, self._speed(job)
        pace, basis = self._pace(job)
        rest = pace * job.seconds(speed, left / max(1, work.requests), job.lengths(min(left, work.answers)))
        whole = pace * job.seconds(speed, 1.0, job.lengths(work.answers))
        programs = cost.PROGRAM * job.programs
        loading = cost.load(job.weights.outline.shape, speed) if with_loading else 0.0
        return Estimate(rest + (programs if left else 0.0) + loading, whole + programs + loading, basis)

    def _pace(self, job: Job) -> tuple[float, str]:
        """Seconds that answers took, over those that the device's speed lets one expect; and of which answers."""
        of_model = [each for each in self.jobs if each.weights.spec == job.weights.spec]
        for jobs, basis in (([job], "its own answers"), (of_model, "this model's answers"), (self.jobs, "other models' answers")):
            measured = [each for each in jobs if each.is_measured]
            expected = sum(
                each.seconds(self._speed(each), each.progress.answered / each.work.requests, [*map(float, each.progress.lengths)])
                for each in measured
            )
            if expected > 0:
                return sum(each.progress.seconds for each in measured) / expected, basis
        if (speed := self._speed(job)).is_of_a_busy_device:
            return 1.0, f"this device's speed while other programs had the processor for {speed.waited:.0%} of the time"
        return 1.0, "this device's speed"

    def _speed(self, job: Job) -> PassSpeed:
        return self.speeds[job.weights.outline.like]
