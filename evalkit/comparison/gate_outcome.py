"""The outcomes of a gate, and the exit code of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evalkit.comparison.gate_config import Margins
from evalkit.comparison.policy import Policy, Tier
from evalkit.stats.paired import ALPHA, Difference

Word = Literal["fail", "cannot detect", "inconclusive", "pass"]
# the worst first: a gate's outcome is its worst task's
EXIT: Mapping[Word, int] = {"fail": 1, "cannot detect": 2, "inconclusive": 3, "pass": 0}


@dataclass(frozen=True, slots=True)
class Case:
    """One task to decide on, by all its names (mmlu, mmlu@qwen), the one to print last; `identical`: all answers are the same."""

    names: tuple[str, ...]
    difference: Difference
    identical: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """What a gate that stops by itself knew after a block: documents seen, their mean difference, the 95% interval of all documents' mean
    and the p of a drop. All are valid whenever one stops.
    """

    documents: int
    value: float
    ci95: tuple[float, float]
    p_drop: float


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """One task's outcome. `p_drop` is Holm-adjusted over its tier, and real below `alpha`; `needed`: how many documents would decide, or
    None if the outcome is decided.

    `looks`: of a gate that stops by itself, () for any other; `of`: how many documents it might have looked at.
    """

    task: str
    word: str
    reason: str
    margin: float
    difference: Difference
    p_drop: float
    needed: int | None = None
    looks: tuple[Look, ...] = ()
    of: int | None = None
    tier: Tier = "blocking"
    alpha: float = ALPHA

    @property
    def name(self) -> str:
        return self.task


@dataclass(frozen=True, slots=True)
class Check:
    """What a policy asks for beside the score: nothing is estimated. `name`: the task and what is checked."""

    name: str
    word: str
    reason: str
    tier: Tier = "blocking"


@dataclass(frozen=True, slots=True)
class Gate:
    """The whole gate. `notes`: tasks that could not be gated, and why; and the notes of both runs. `checks`: of a policy."""

    base: str
    cand: str
    margins: Margins
    outcomes: tuple[GateOutcome, ...]
    notes: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    policy: Policy | None = None

    @property
    def passed(self) -> bool:
        return self.word == "pass"

    @property
    def word(self) -> Word:
        """The worst outcome of the blocking tier."""
        words = {each.word for each in self.all if each.tier == "blocking"}
        return next((word for word in EXIT if word in words), "pass")

    @property
    def all(self) -> tuple[GateOutcome | Check, ...]:
        """Outcomes and checks."""
        return (*self.outcomes, *self.checks)

    @property
    def warnings(self) -> tuple[GateOutcome | Check, ...]:
        """What did not pass and blocks nothing."""
        return tuple(each for each in self.all if each.tier == "warning" and each.word != "pass")

    @property
    def asked(self) -> str:
        """What the gate was asked, as the command line has it."""
        return str(self.policy) if self.policy else f"--margin {self.margins}"
