"""The outcomes of a gate, and the exit code of each."""

from dataclasses import dataclass

from evalkit.comparison.gate_config import Margins
from evalkit.stats.paired import Difference

# the worst first: a gate's outcome is its worst task's
EXIT = {"fail": 1, "cannot detect": 2, "inconclusive": 3, "pass": 0}


@dataclass(frozen=True, slots=True)
class Case:
    """One task to decide on, by all its names (mmlu, mmlu@qwen), the one to print last; `identical`: all answers are the same."""

    names: tuple[str, ...]
    difference: Difference
    identical: bool = False


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """One task's outcome. `p_drop` is Holm-adjusted; `needed`: how many documents would decide, or None if the outcome is decided."""

    task: str
    word: str
    reason: str
    margin: float
    difference: Difference
    p_drop: float
    needed: int | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """The whole gate. `notes`: tasks that could not be gated, and why; and the notes of both runs."""

    base: str
    cand: str
    margins: Margins
    outcomes: tuple[GateOutcome, ...]
    notes: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The worst outcome."""
        words = {outcome.word for outcome in self.outcomes}
        return next(word for word in EXIT if word in words)
