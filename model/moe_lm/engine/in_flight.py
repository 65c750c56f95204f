"""A request in flight: the tokens that it needs to have run, and what lies on its pages.

What is left to run is all that the scheduler (`moe_lm.engine.generator`) has to know: a prompt that is still being computed, the newest
token of an answer, and tokens whose pages were given to others are all the same to it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from moe_lm.backends.base import PAGE
from moe_lm.engine.pages import PagedCache
from moe_lm.engine.prefix_tree import num_shared

WORTH_WAITING = 32  # tokens: a sequence waits for another one that is about to compute so many of its first ones
SHORT = 256  # tokens; a sequence that needs no more goes before those that need more

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token ids as text: `decode` leaves special tokens out, `special` has their names; `stop_ids` end an answer."""

    decode: Callable[[list[int]], str]
    stop_ids: frozenset[int]
    special: dict[int, str] = field(default_factory=dict)


class InFlight(ABC, Generic[Result]):
    """`ids` are the tokens to run, of which the first `cache.length` have been; `priority` and `arrival` decide the order."""

    def __init__(self, ids: Sequence[int], prompt: Sequence[int], priority: int, arrival: int):
        self.ids, self.prompt = list(ids), prompt
        self.priority, self.arrival = priority, arrival
        self.cache: PagedCache | None = None
        self.num_run = 0  # tokens run for it, those run again included
        self.result: Result | None = None
        self.error: BaseException | None = None

    @property
    def has_ended(self) -> bool:
        return self.result is not None or self.error is not None

    @property
    def left(self) -> int:
        """How many tokens have to be run before its next result."""
        return len(self.ids) - (self.cache.length if self.cache else 0)

    @property
    def is_short(self) -> bool:
        return self.num_run + self.left <= SHORT

    @property
    def has_begun(self) -> bool:
        """Has it shown a first result?"""
        return False

    @property
    def order(self) -> tuple[int, bool, bool, int]:
        """Sort key: a sequence never waits for one after it, and may take its pages."""
        return -self.priority, not self.is_short, self.has_begun and self.is_short, self.arrival

    @property
    def longest(self) -> int:
        """How many tokens it may have to keep on pages at once."""
        return len(self.ids)

    @property
    def pages_to_come(self) -> int:
        """How many pages it may still take."""
        return -(-self.longest // PAGE) - (len(self.cache.pages) if self.cache else 0)

    def outcome(self) -> Result:
        """Its result. Raises what made it fail."""
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    @abstractmethod
    def reusable(self) -> Sequence[int]:
        """The first tokens, which need not be run if their keys and values are known."""

    def should_wait_for(self, other: "InFlight", num_known: int) -> bool:
        """Is the other, which is being run, about to compute more of this one's first tokens than are known?"""
        return num_shared(other.ids, self.reusable()) >= num_known + WORTH_WAITING

    @abstractmethod
    def wanted(self, begin: int, end: int) -> range:
        """Which of the tokens ids[begin:end], counted from `begin`, need their hidden states."""
