"""How many tokens were asked for, and how many were computed.

Asked for: what it takes to run each distinct text (context and continuation) on its own.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Usage:
    """Running totals. `shared` is what prefix sharing saved: tokens of requests that no forward pass had to compute again."""

    requested: int = 0
    computed: int = 0

    @property
    def shared(self) -> int:
        return self.requested - self.computed
