"""How many tokens were requested, and how many were computed.

Requested: the tokens of each distinct text (context and continuation), run separately.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Usage:
    """Running totals. `shared` is what prefix sharing saved: requested tokens that no forward pass computed again."""

    requested: int = 0
    computed: int = 0

    @property
    def shared(self) -> int:
        return max(0, self.requested - self.computed)  # drafts that did not come true are computed on top
