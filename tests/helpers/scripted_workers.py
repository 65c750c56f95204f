"""Workers without engines or processes, for tests of their driver: what each of them does is a script, and nothing depends on the clock."""

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods, Request, Response
from evalkit.workers.messages import Alive, Answer, Finished, FromWorker, Hello, Lease, Loaded, Opened, Prepare, ToWorker
from evalkit.workers.transport import Link, Transport

Act = Callable[["Scripted", Lease], Iterable[FromWorker | None]]


def response_to(request: Request) -> Response:
    """A pure function of the request."""
    rng = random.Random(request.context + repr(getattr(request, "continuations", "")))
    if isinstance(request, Generate):
        return Generated(f"{rng.random()}", "stop", 3)
    return Loglikelihoods(tuple(-rng.random() for _ in request.continuations), tuple(False for _ in request.continuations))


def answers(lease: Lease, most: int | None = None) -> list[FromWorker | None]:
    """The lease's answers, at most so many."""
    return [Answer(lease.id, i, response_to(request), i, 0) for i, request in list(enumerate(lease.requests))[:most]]


def obey(worker: "Scripted", lease: Lease) -> list[FromWorker | None]:
    """Answer everything."""
    return [*answers(lease), Finished(lease.id, {"dtype": "none"})]


@dataclass(eq=False)
class Scripted(Link):
    """A worker that does at each lease what its script says; None in what it says is its end."""

    number: int
    act: Act
    fingerprint: str
    says: deque[FromWorker | None] = field(default_factory=deque)
    leases: list[Lease] = field(default_factory=list)
    is_killed: bool = False

    def send(self, message: ToWorker) -> None:
        match message:
            case Hello():
                self.says += [Alive(0, 0, ()), Opened(self.fingerprint, {"dtype": "none"}, ())]
            case Prepare():
                self.says.append(Loaded())
            case Lease():
                self.leases.append(message)
                self.says += self.act(self, message)

    def kill(self) -> None:
        self.is_killed = True

    def why(self) -> str:
        return "killed by SIGKILL"


class ScriptedWorkers(Transport):
    """`act`: the script of all workers, or of each by its number. Messages of several workers are mixed by `seed`."""

    def __init__(self, act: Act | Sequence[Act] = obey, seed: int = 0, fingerprints: Sequence[str] = ()):
        self.acts, self.rng, self.fingerprints = act, random.Random(seed), fingerprints
        self.started: list[Scripted] = []

    def start(self, number: int) -> Scripted:
        act = self.acts if callable(self.acts) else self.acts[number]
        known = self.fingerprints[number] if self.fingerprints else "sha256:scripted"
        self.started.append(Scripted(number, act, known))
        return self.started[-1]

    def sharing(self, number: int) -> int:
        return 1

    def receive(self, timeout: float) -> Iterable[tuple[Link, FromWorker | None]]:
        speaking = [worker for worker in self.started if worker.says and not worker.is_killed]
        if not speaking:
            return []
        worker = self.rng.choice(speaking)
        return [(worker, worker.says.popleft())]

    def close(self) -> None:
        for worker in self.started:
            worker.kill()


def multiple_choice(subjects: int, docs: int) -> list[Request]:
    """Questions after a long prefix a subject."""
    shots = {s: f"Questions about subject {s}. " + f"An example of subject {s}. " * 60 for s in range(subjects)}
    return [Loglikelihood(f"{shots[s]}Question {d}?", (" A", " B")) for d in range(docs) for s in range(subjects)]
