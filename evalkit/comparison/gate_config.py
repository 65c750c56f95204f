"""What one gate is asked: GateConfig, and its margins, one for each task."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from evalkit.errors import EvalkitError, unknown

DEFAULT_MARGIN = 0.01
ORDERS = ("uniform", "margin")
SMALLEST_MARGIN = 1e-9  # below it the number of documents that it takes grows out of a float


@dataclass(frozen=True, slots=True)
class Margins:
    """The smallest drop that matters, in the metric's unit: `default`, and `by_task` for the tasks that have their own.

    Without a default every task of the gate must have its own. Raises EvalkitError for a margin that is not between 1e-9 and 1.
    """

    default: float | None = DEFAULT_MARGIN
    by_task: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for margin in [*self.by_task.values(), *([] if self.default is None else [self.default])]:
            if not SMALLEST_MARGIN <= margin < 1:
                raise EvalkitError(
                    f"margin is {margin:g}; give it in the metric's unit, between {SMALLEST_MARGIN:g} and 1: 0.01 is one point of accuracy"
                )

    @classmethod
    def parse(cls, text: str) -> "Margins":
        """ "0.01", "mmlu=0.01,gsm8k=0.03", or both: "0.01,gsm8k=0.03". Raises EvalkitError for anything else."""
        default: float | None = None
        by_task: dict[str, float] = {}
        for part in text.split(","):
            task, equals, number = (piece.strip() for piece in part.rpartition("="))
            try:
                margin = float(number)
            except ValueError:
                raise EvalkitError(f"margin is {text!r}; give a number, or one for each task: mmlu=0.01,gsm8k=0.03") from None
            if equals and not task:
                raise EvalkitError(f"margin is {text!r}; name the task before {equals}{number}, as in mmlu=0.01,gsm8k=0.03")
            if task in by_task or (not task and default is not None):
                raise EvalkitError(f"margin is {text!r}, with two for {task or 'all tasks'}; give one for each task: mmlu=0.01,gsm8k=0.03")
            if task:
                by_task[task] = margin
            else:
                default = margin
        return cls(default, by_task)

    def of(self, names: tuple[str, ...]) -> float:
        """The margin of a task that goes by these names (mmlu, mmlu@qwen). Raises EvalkitError where it has none, or several."""
        own = {self.by_task[name] for name in names if name in self.by_task}
        if len(own) > 1:
            raise EvalkitError(f"--margin gives {' and '.join(f'{m:g}' for m in sorted(own))} for {names[0]}; give one")
        if own:
            return own.pop()
        if self.default is None:
            raise EvalkitError(f"--margin has none for {names[0]}; add {names[0]}={DEFAULT_MARGIN:g}, or a number for all other tasks")
        return self.default

    def require_known(self, names: tuple[str, ...]) -> None:
        """Raises EvalkitError for the margin of a task that the gate does not hold."""
        if odd := [task for task in self.by_task if task not in names]:
            raise unknown("task in --margin", odd[0], names)

    def __str__(self) -> str:
        parts = [] if self.default is None else [f"{self.default:g}"]
        return ",".join([*parts, *(f"{task}={margin:g}" for task, margin in self.by_task.items())])


@dataclass(frozen=True, slots=True)
class Sequential:
    """A gate that stops by itself: the candidate answers the base's documents block by block, in an order fixed by `order_seed`.

    `run`: settings of the candidate's run, RunConfig's fields by name; None where it is finished, and is read in that order. `block`: how
    many documents the first blocks have, if not as many as the margin and the prompts suggest. `order`: "margin" draws more of the
    documents whose decision was close in the base. After about `max_documents` of a task, or `max_minutes`, what is undecided is
    inconclusive.
    """

    run: Mapping[str, Any] | None = None
    order_seed: int = 0
    block: int | None = None
    max_documents: int | None = None
    max_minutes: float | None = None
    order: str = ORDERS[0]

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise unknown("value of --order", self.order, ORDERS)
        for option, number in (("--max-documents", self.max_documents), ("--block", self.block)):
            if number is not None and number < 1:
                raise EvalkitError(f"{option} is {number}; give at least 1, or leave it out")
        if self.max_minutes is not None and not 0 < self.max_minutes < float("inf"):
            raise EvalkitError(f"--max-minutes is {self.max_minutes:g}; give more than 0, or leave it out")
        if self.run is None and self.max_minutes is not None:
            raise EvalkitError("--max-minutes is for a candidate that still has to answer; with --replay-order give --max-documents")


# what a policy says in place of the command line
REPLACED = ("margins", "tasks", "metric", "cluster", "allow_small_margin", "against", "published")


def beside_policy(name: str) -> EvalkitError:
    """The error for a field of GateConfig that is given beside a policy: neither overrides the other in silence."""
    option = name.replace("margins", "margin").replace("_", "-")
    return EvalkitError(f"--{option} stands beside --policy, which decides what is gated and how; leave it out, or change the policy")


@dataclass(frozen=True, slots=True)
class GateConfig:
    """One `evalkit gate`: BASE and CAND; or with against="published" one RUN against published figures; or with `sequential` BASE, and a
    candidate that is run, or replayed.

    `policy`: a gate.toml, which then decides in place of margins, tasks, metric and cluster; `bench`: two bench.json for it.

    `published` names a table, or a .toml file with one, if several match. `metric`: in place of the headline; `cluster`: the document
    field that names a shared source. The files are written for every outcome; `summary` is appended to, and defaults to the file that
    GitHub names.
    """

    runs: tuple[str, ...]
    margins: Margins = field(default_factory=Margins)
    against: str | None = None
    published: str | None = None
    tasks: tuple[str, ...] = ()
    metric: str | None = None
    cluster: str | None = None
    allow_small_margin: bool = False
    sequential: Sequential | None = None
    policy: str | None = None
    bench: tuple[str, ...] = ()
    junit: str | None = None
    summary: str | None = None
    json: str | None = None
    comment: str | None = None
    bundle: str | None = None

    def __post_init__(self) -> None:
        for option, file in (("--junit", self.junit), ("--json", self.json), ("--comment", self.comment), ("--bundle", self.bundle)):
            if file == "":  # as of a variable that a CI job has not set: nothing would be written, and nobody told
                raise EvalkitError(f"{option} is empty; give a file's name, or leave it out")
        if self.policy == "":
            raise EvalkitError("--policy is empty; give a file's name, or leave it out")
        if self.bench and not self.policy:
            raise EvalkitError("--bench has no effect without --policy, whose [throughput] and [memory] it is held against; give both")
        if self.policy:
            defaults = {each.name: each.default for each in fields(self)} | {"margins": Margins()}
            if odd := [name for name in REPLACED if getattr(self, name) != defaults[name]]:
                raise beside_policy(odd[0])
        if self.against is None and self.published is not None:
            raise EvalkitError(f"--published {self.published} chooses a table for --against published; give both")
        runs_it = self.sequential is not None and self.sequential.run is not None
        if self.sequential and self.against:
            raise EvalkitError("--sequential needs a BASE with its answers; --against published has figures alone: leave one of them out")
        if runs_it and len(self.runs) != 1:
            raise EvalkitError(
                f"{len(self.runs)} runs given; --sequential takes BASE alone and runs the candidate: BASE --model SPEC --sequential, "
                "or BASE CAND --replay-order for two finished runs"
            )
        if self.against is None and not runs_it and len(self.runs) != 2:
            raise EvalkitError(f"{len(self.runs)} runs given; evalkit gate takes BASE CAND, or --against published RUN")
        if self.against not in (None, "published"):
            raise unknown("value of --against", str(self.against), ["published"])
        if self.against and (len(self.runs) != 1 or self.metric is not None):
            raise EvalkitError("--against published takes one RUN and its headline metrics, as in evalkit gate --against published RUN")
