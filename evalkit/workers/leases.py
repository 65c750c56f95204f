"""Who computes what: a lease is a part of a branch, or some small branches. Neither a clock nor a transport is needed here.

A worker gets the largest branch that nobody has begun, then the rest of it, part by part, so that what its requests begin with is computed
once; when no branch is left to begin, it gets a part of the one with the most work left. Parts shrink as the end comes nearer, so that
all workers end at about the same time.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from evalkit.workers.branches import Branch

FATAL = 2  # workers that were lost with the same requests, after which these are set aside
PARTS = 8  # that the rest of a lost lease is divided into, so that little is set aside
FIRST = 32_768  # tokens of work at most before a worker's pace is known
SMALLEST = 2048  # tokens of work: a pass of the engine, which is shared by prompts
AT_ONCE = 64  # requests: as many answers as an engine generates at a time
SECONDS = 20.0  # of work in a lease of prompts; answers of many lengths are best generated in large leases


@dataclass(slots=True)
class Leased:
    """A lease: its requests by number, those without an answer yet, their work, and how many workers it has cost."""

    id: int
    worker: int
    requests: tuple[int, ...]
    work: float
    lost: int = 0
    missing: set[int] = field(init=False)  # indices into `requests`

    def __post_init__(self) -> None:
        self.missing = set(range(len(self.requests)))


@dataclass(slots=True)
class _Branch:
    """What is left of a branch, and the worker that has it."""

    requests: deque[int]
    work: deque[float]
    left: float
    worker: int | None = None


class Leases:
    """All requests of one call of the engine, until each is answered or set aside.

    `generates`: answers are generated, so that a lease is not limited in time.
    """

    def __init__(self, branches: Sequence[Branch], workers: int, generates: bool):
        self.workers, self.generates = workers, generates
        self._untouched = deque(_Branch(deque(each.requests), deque(each.work), each.total) for each in branches)  # the largest first
        self._begun: dict[int, _Branch] = {}  # by id()
        self._retry: deque[tuple[tuple[int, ...], float, int]] = deque()  # requests, their work, workers that they have cost
        self._current: dict[int, Leased] = {}
        self._next = 0
        self.set_aside: list[int] = []  # requests that are given up
        self.unleased = total = sum(branch.left for branch in self._untouched)
        num_requests = sum(len(branch.requests) for branch in self._untouched)
        least = max(SMALLEST, AT_ONCE * total / max(1, num_requests)) if generates else SMALLEST
        self._least = min(least, total / workers)

    @property
    def is_done(self) -> bool:
        """Nothing is leased, and nothing left to lease."""
        return not self._current and not self.has_more

    @property
    def has_more(self) -> bool:
        """Is there anything to lease?"""
        return bool(self._retry or self._untouched or self._begun)

    def take(self, worker: int, pace: float | None = None) -> Leased | None:
        """A lease for a worker that has none, None if there is nothing left; `pace` is the worker's, in work a second."""
        if self._retry:
            requests, work, lost = self._retry.popleft()
            return self._lease(worker, list(requests), work, lost)
        target = self.unleased / (2 * self.workers)
        if not self.generates:
            target = min(target, FIRST if pace is None else pace * SECONDS)
        target = max(target, self._least)
        requests_taken: list[int] = []
        work_taken = 0.0
        while work_taken < target and (branch := self._best(worker, begun=not requests_taken)):
            branch.worker = worker
            while branch.requests and work_taken < target:
                requests_taken.append(branch.requests.popleft())
                work = branch.work.popleft()
                branch.left -= work
                work_taken += work
                self.unleased -= work
            if not branch.requests:
                self._begun.pop(id(branch), None)
            else:
                self._begun[id(branch)] = branch
        return self._lease(worker, requests_taken, work_taken, 0) if requests_taken else None

    def _best(self, worker: int, begun: bool) -> _Branch | None:
        """The branch to go on with. Another worker's is divided only where a lease would be empty otherwise (`begun`)."""
        own = next((branch for branch in self._begun.values() if branch.worker == worker), None)
        if own or not begun:
            return own or (self._untouched.popleft() if self._untouched else None)
        if self._untouched:
            return self._untouched.popleft()
        return max(self._begun.values(), key=lambda branch: branch.left, default=None)

    def _lease(self, worker: int, requests: list[int], work: float, lost: int) -> Leased:
        self._next += 1
        self._current[self._next] = Leased(self._next, worker, tuple(requests), work, lost)
        return self._current[self._next]

    def answered(self, lease: int, index: int) -> int | None:
        """The number of the request that is answered; None where it was answered before, or the lease was lost."""
        current = self._current.get(lease)
        if current is None or index not in current.missing:
            return None
        current.missing.remove(index)
        return current.requests[index]

    def finished(self, lease: int) -> bool:
        """The lease is over. False where its requests are not all answered: those are leased again, as of a lost worker."""
        current = self._current.get(lease)
        if current and current.missing:
            self.lost(lease)
            return False
        self._current.pop(lease, None)
        return True

    def lost(self, lease: int, is_fault: bool = True) -> tuple[int, ...]:
        """The worker is lost: what it had not answered is leased again, or set aside if it was lost by these requests' fault twice.

        Returns the requests that are set aside.
        """
        current = self._current.pop(lease, None)
        if current is None or not current.missing:
            return ()
        rest = tuple(current.requests[i] for i in sorted(current.missing))
        lost = current.lost + is_fault
        if lost >= FATAL:
            self.set_aside += rest
            return rest
        size = -(-len(rest) // PARTS) if is_fault else len(rest)
        each = current.work / len(current.requests)
        self._retry += [(rest[i : i + size], each * len(rest[i : i + size]), lost) for i in range(0, len(rest), size)]
        return ()
