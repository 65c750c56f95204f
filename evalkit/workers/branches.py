"""Requests as branches of the prefix tree: those that begin with the same text are best computed by one worker.

Nothing is encoded: texts are compared, and work is counted in tokens of about four characters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.runner.workload import likely_length, prompt_text, sizes
from evalkit.tasks import Request

CHARACTERS = 4  # of a token, about
NEW = 2  # what a new token costs, in tokens of prompts, about: it is run in a smaller pass


@dataclass(frozen=True, slots=True)
class Branch:
    """Requests that share most of their prompts, by number, in lexical order: neighbours share the most.

    `work` of each, in tokens, less what it shares with the one before it; the first one's includes what all begin with.
    """

    requests: tuple[int, ...]
    work: tuple[float, ...]

    @property
    def total(self) -> float:
        return sum(self.work)


def branches(requests: Sequence[Request]) -> list[Branch]:
    """The branches of some distinct requests, the largest first, else in lexical order."""
    found = sizes(requests)
    prompts = [prompt_text(request) for request in requests]
    groups: list[list[int]] = []
    before = None
    for i in sorted(range(len(prompts)), key=prompts.__getitem__):
        if before is None or 2 * found[i].shared < min(len(prompts[i]), len(prompts[before])):
            groups.append([])
        groups[-1].append(i)
        before = i
    work = [
        (size.prompt - size.shared + size.scored) / CHARACTERS + (NEW * likely_length(size.max_new_tokens) if size.max_new_tokens else 0)
        for size in found
    ]
    made = [Branch(tuple(group), tuple(max(1.0, work[i]) for i in group)) for group in groups]
    return sorted(made, key=lambda branch: -branch.total)
