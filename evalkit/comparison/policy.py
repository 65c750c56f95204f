"""gate.toml, the policy of a gate: rule by rule, what a candidate has to keep, in a file that people review. docs/ci.md has every key.

A file that is not fully understood is refused in one line, which names the line of the file and the fix.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

from evalkit.codec import Misfit, TomlFile, decode_toml, key, shown
from evalkit.comparison.gate_config import SMALLEST_MARGIN
from evalkit.errors import EvalkitError

Tier = Literal["blocking", "warning"]
Missing = Literal["fail", "ignore", "error"]
TIERS: Final = ("blocking", "warning")
ALPHAS = (0.001, 0.2)  # below the first, 2,000 resamples hold too few draws; above the second, a gate fails by chance too often to be read
FIX = "correct the policy; docs/ci.md has every key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A count that grows with the task: a share of its documents."""

    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """How many documents more than the base's may have a problem, by run.json's counts; None: any number."""

    truncated: int | Share | None = None
    extraction_failed: int | Share | None = None
    empty: int | Share | None = None
    stopped_by_length: int | Share | None = None
    boundary_merged: int | Share | None = None
    unanswered: int | Share | None = None

    def given(self) -> dict[str, int | Share]:
        """Those that are bounded."""
        bounds = ((each.name, getattr(self, each.name)) for each in fields(self))
        return {name: bound for name, bound in bounds if bound is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What a rule may say, and [default] for those that do not: None is not said."""

    margin: float | None = None
    drop: float | None = None
    tier: Tier | None = None
    alpha: float | None = None
    min_documents: int | None = None
    allow_small_margin: bool | None = None
    cluster: str | None = None
    missing: Missing | None = None
    allowed: Allowed = field(default_factory=Allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRow(Demands):
    """A [[rule]] as the file has it."""

    task: str
    metric: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """[throughput], by `drop`, or [memory], by `rise`: the smallest loss that matters, as a share of the base."""

    bound: float
    tier: Tier = "blocking"
    alpha: float | None = None
    missing: Missing = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput(Limit):
    bound: float = field(metadata=key("drop"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory(Limit):
    bound: float = field(metadata=key("rise"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """The whole file."""

    default: Demands = field(default_factory=Demands)
    throughput: Throughput | None = None
    memory: Memory | None = None
    rule: tuple[RuleRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one task, by one metric, has to keep. `drop` is a share of the base's score, in place of a margin; `alpha` None is the gate's
    own; `place` and `drop_place`: the file and line of the rule and of its drop, for messages.
    """

    task: str
    metric: str | None = None
    margin: float | None = None
    drop: float | None = None
    tier: Tier = "blocking"
    alpha: float | None = None
    min_documents: int = 1
    allow_small_margin: bool = False
    cluster: str | None = None
    missing: Missing = "fail"
    allowed: Mapping[str, int | Share] = field(default_factory=dict)
    place: str = ""
    drop_place: str = ""

    def margin_of(self, base: float) -> float:
        """The margin for a base of this score. Raises EvalkitError where a share of it is none."""
        if self.margin is not None:
            return self.margin
        assert self.drop is not None
        margin = self.drop * abs(base)
        if not SMALLEST_MARGIN <= margin < 1:
            # of a score above 1, as a rating's, a margin would be refused as well
            fix = "give a margin instead" if margin < 1 else f"give drop = {0.9 / abs(base):.2g} or less"
            raise EvalkitError(
                f"{self.drop_place}: {self.task} has {base:g} in the base, and drop = {self.drop:g} of that is {margin:g}, not between "
                f"{SMALLEST_MARGIN:g} and 1; {fix}"
            )
        return margin


@dataclass(frozen=True, slots=True)
class Policy:
    """`raw` is the file as it was read, `values` what it says."""

    path: str
    raw: bytes
    values: Mapping[str, Any]
    rules: tuple[Rule, ...]
    throughput: Limit | None = None
    memory: Limit | None = None

    @property
    def sha256(self) -> str:
        """What sha256sum prints of the file."""
        return hashlib.sha256(self.raw).hexdigest()

    def __str__(self) -> str:
        return f"--policy {self.path} (sha256 {self.sha256[:12]})"


def read_policy(path: str) -> Policy:
    """Raises EvalkitError, with the file and the line, for one that is not fully understood."""
    file = TomlFile.read(Path(path))
    if "rule" not in file.values:
        raise EvalkitError(f'{path}: it has no [[rule]], so nothing would be gated; add [[rule]] with task = "mmlu"')
    found = decode_toml(PolicyFile, file, FIX)
    if not found.rule:
        raise Misfit("is empty, so nothing would be gated", "rule").in_file(file, 'add [[rule]] with task = "mmlu"')
    try:
        _check(found.default, "default")
        for i, row in enumerate(found.rule):
            _check(row, "rule", i)
        for name, limit in (("throughput", found.throughput), ("memory", found.memory)):
            if limit:
                _check_limit(limit, name)
    except Misfit as misfit:
        raise misfit.in_file(file, FIX) from None
    rules: dict[tuple[str, str | None], Rule] = {}
    for i, row in enumerate(found.rule):
        rule = _rule(row, found.default, file, i)
        if earlier := rules.get((row.task, row.metric)):
            what = f"{row.task} by {row.metric}" if row.metric else row.task
            raise EvalkitError(f"{rule.place}: {what} has a rule already, at {earlier.place}; leave one of them out")
        rules[row.task, row.metric] = rule
    return Policy(path, file.raw, file.values, tuple(rules.values()), found.throughput, found.memory)


def _check(demands: Demands, *table: str | int) -> None:
    """Raises Misfit for a value that no gate could hold. `table`: the keys that lead to these."""
    around = table[::-1]  # as Misfit has them, the innermost first
    if demands.margin is not None and demands.drop is not None:
        raise Misfit("stands beside a margin: give one of them", "drop", *around)
    if demands.margin is not None:
        expected = f"a drop in the metric's unit, from {SMALLEST_MARGIN:g} to below 1 (0.01 is one point of accuracy)"
        _require(SMALLEST_MARGIN <= demands.margin < 1, demands.margin, expected, "margin", *around)
    if demands.drop is not None:
        expected = f"a share of the base's score, from {SMALLEST_MARGIN:g} to below 1"
        _require(SMALLEST_MARGIN <= demands.drop < 1, demands.drop, expected, "drop", *around)
    _require_alpha(demands.alpha, *around)
    if demands.min_documents is not None:
        _require(demands.min_documents >= 1, demands.min_documents, "at least 1", "min_documents", *around)
    for name in ("cluster", *(("task", "metric") if isinstance(demands, RuleRow) else ())):
        _require(getattr(demands, name) != "", "", "a name", name, *around)
    for name, bound in demands.allowed.given().items():
        if isinstance(bound, Share):
            _require(0 <= bound.share <= 1, bound.share, "a share of the documents, from 0 to 1", "share", name, "allowed", *around)
        else:
            _require(bound >= 0, bound, "a number of documents, 0 or more", name, "allowed", *around)


def _check_limit(limit: Limit, table: str) -> None:
    """The same for [throughput] and [memory]."""
    name, most = ("drop", 1) if isinstance(limit, Throughput) else ("rise", 10)
    _require(SMALLEST_MARGIN <= limit.bound < most, limit.bound, f"a share of the base's, above 0 and below {most}", name, table)
    _require_alpha(limit.alpha, table)


def _require_alpha(alpha: float | None, *around: str | int) -> None:
    if alpha is not None:
        _require(ALPHAS[0] <= alpha <= ALPHAS[1], alpha, f"from {ALPHAS[0]:g} to {ALPHAS[1]:g}", "alpha", *around)


def _require(holds: bool, value: Any, expected: str, *keys: str | int) -> None:
    """`keys`: the value's own, then those around it."""
    if not holds:
        raise Misfit(f"is {shown(value)}, expected {expected}", *keys)


def _rule(row: RuleRow, default: Demands, file: TomlFile, i: int) -> Rule:
    """The i-th rule, with the defaults where it says nothing itself. Raises EvalkitError where neither says how much may be lost."""
    is_own = row.margin is not None or row.drop is not None
    own, place = row if is_own else default, file.place(("rule", i))
    drop_place = file.place(("rule", i, "drop") if is_own else ("default", "drop"))
    if own.margin is None and own.drop is None:
        raise EvalkitError(
            f"{place}: {row.task} has neither margin nor drop; add margin = 0.01 (one point of accuracy) or drop = 0.02 (2% of the base's "
            "score), here or under [default]"
        )
    said = {
        name: value
        for name in ("tier", "alpha", "min_documents", "allow_small_margin", "cluster", "missing")
        for value in [getattr(row, name) if getattr(row, name) is not None else getattr(default, name)]
        if value is not None
    }
    allowed = default.allowed.given() | row.allowed.given()
    return Rule(
        task=row.task, metric=row.metric, margin=own.margin, drop=own.drop, allowed=allowed, place=place, drop_place=drop_place, **said
    )
