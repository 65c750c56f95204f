"""The driver: workers as one LM. What it answers, and under which fingerprint, does not depend on how many there are.

It leases branches of requests to workers, takes their answers as they come, and leases again what a lost worker had not answered.
"""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError, RequestsSetAside, RunIncomplete
from evalkit.lm.base import LM, OnLoad, Tokens
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods, Request, last_asked
from evalkit.workers.branches import branches
from evalkit.workers.leases import Leased, Leases
from evalkit.workers.messages import (
    SILENCE,
    STARTING,
    Alive,
    Answer,
    Failed,
    Finished,
    FromWorker,
    Hello,
    Lease,
    Loaded,
    Loading,
    Opened,
    Prepare,
)
from evalkit.workers.transport import Link, Transport

TURN = 0.5  # seconds between two looks at silent workers, at most
AWAY = 5.0  # seconds: if the driver itself did not listen for so long, no worker was silent
ATTEMPTS = 3  # workers that are started in one place, one after the other, without an answer
SHOWN = 4  # workers of which each is shown


@dataclass(slots=True)
class _Place:
    """A worker and those that replace it. `state`: absent, starting, open, loading, ready, computing or gone (not replaced)."""

    number: int
    link: Link | None = None
    state: str = "absent"
    lease: Leased | None = None
    answers: int = 0  # of this lease
    heard: float = 0.0
    began: float = 0.0
    pace: float | None = None
    tokens: Tokens = field(default_factory=Tokens)
    unfinished: Sequence[int] = ()
    attempts: int = 0  # since the last answer
    percent: int = 0

    def __str__(self) -> str:
        if self.lease:
            return f"{self.number + 1}: {self.answers} of {len(self.lease.requests)}"
        return f"{self.number + 1}: {self.state}{f' {self.percent}%' if self.state == 'loading' and self.percent else ''}"


class WorkersLM(LM):
    """The first worker opens the engine and tells who it is; the others start when there is something to compute."""

    def __init__(self, transport: Transport, model: ModelSpec, count: int, say: Callable[[str], None]):
        """Raises the EvalkitError of the engine that can't be opened, or RunIncomplete where no worker lives long enough."""
        self.transport, self.model, self.say = transport, model, say
        self.fingerprint, self.notices = "", ()
        self.places = [_Place(number) for number in range(count)]
        self._description: Mapping[str, Any] = {}
        self._computed = self._shared = 0
        self._prepared = self._draining = self._interrupted = False
        self._leases: Leases | None = None
        self._turned = time.monotonic()
        self._why_lost = ""
        try:
            self._start(self.places[0])
            while not self.fingerprint:
                self._turn()
        except BaseException:
            self.close()
            raise

    # --- one LM --------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return self._prepared

    def prepare(self, on_load: OnLoad | None = None) -> None:
        """All workers start; the first whose weights are read begins."""
        self._prepared = True
        for place in self.places:
            if place.state == "open":
                self._load(place)
            elif place.state == "absent":
                self._start(place)
        while not any(place.state == "ready" for place in self.places):
            self._turn()
            if on_load:
                on_load(max(place.percent for place in self.places), 100)

    def loglikelihood(self, requests: Sequence[Loglikelihood]) -> Iterator[tuple[int, Loglikelihoods]]:
        yield from self._answers(requests)

    def loglikelihood_rolling(self, texts: Sequence[str]) -> Iterator[tuple[int, float]]:
        for i, response in self._answers([Loglikelihood("", (text,), rolling=True) for text in texts]):
            yield i, response.logprobs[0]

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
        yield from self._answers(requests)

    def describe(self) -> dict[str, Any]:
        return dict(self._description)

    def tokens(self) -> Tokens:
        return Tokens(self._computed, self._shared)

    def unfinished(self) -> Sequence[int]:
        return [length for place in self.places for length in place.unfinished]

    def activity(self) -> str:
        lost = sum(place.state == "gone" for place in self.places)
        text = f"{len(self.places) - lost} worker{'s' if len(self.places) - lost > 1 else ''}"
        if len(self.places) <= SHOWN:
            return f"{text} ({', '.join(map(str, self.places))})"
        at_work = sum(place.state == "computing" for place in self.places)
        return f"{text}, {at_work} computing"

    def close(self) -> None:
        for place in self.places:
            place.state, place.lease, place.link = "gone", None, None
        self.transport.close()

    # --- leases --------------------------------------------------------------------------------------------------------

    def _answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Any]]:
        """Every answer as it comes. Raises RequestsSetAside at the end if some requests have none, RunIncomplete if no worker is left."""
        if not requests:
            return
        self.prepare()
        same: dict[Request, list[int]] = {}
        for i, request in enumerate(requests):
            same.setdefault(request, []).append(i)
        distinct = list(same)
        generates = isinstance(distinct[0], Generate)
        leases = self._leases = Leases(branches(distinct), len(self.places), generates)
        try:
            with self._interruptible():
                while not leases.is_done:
                    for place in self.places:
                        if place.state == "ready" and not self._interrupted:
                            self._lease(place, leases, distinct)
                    if self._interrupted and not any(place.lease for place in self.places):
                        raise KeyboardInterrupt
                    for number, response in self._turn():
                        for i in same[distinct[number]]:
                            yield i, response
        finally:
            self._leases = None
            for place in self.places:
                if place.lease:  # the caller has stopped early: what is computed now is nobody's
                    self._end(place, "absent")
        if leases.set_aside:
            first = distinct[min(leases.set_aside)]
            count = len(leases.set_aside)
            raise RequestsSetAside(
                f"{count} request{'s were' if count > 1 else ' was'} set aside, with which two workers were lost "
                f"(the last one: {self._why_lost}); the first begins {last_asked(first)[:60]!r}"
            )

    def _lease(self, place: _Place, leases: Leases, requests: Sequence[Request]) -> None:
        lease = leases.take(place.number, place.pace)
        if lease and place.link:
            place.lease, place.state, place.answers, place.began = lease, "computing", 0, time.monotonic()
            place.link.send(Lease(lease.id, tuple(requests[i] for i in lease.requests)))

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C lets the workers end their leases; a second one stops at once."""

        def stop(signum: int, frame: object) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        previous: Any = None
        try:
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                previous = signal.signal(signal.SIGINT, stop)
        except ValueError:  # not the main thread
            pass
        try:
            yield
        finally:
            if previous:
                signal.signal(signal.SIGINT, previous)

    # --- workers -------------------------------------------------------------------------------------------------------

    def _start(self, place: _Place) -> None:
        place.state, place.heard, place.tokens, place.percent = "starting", time.monotonic(), Tokens(), 0
        place.attempts += 1
        place.link = self.transport.start(place.number)
        place.link.send(Hello(self.model, place.number, self.transport.sharing(place.number), self.transport.weights))

    def _load(self, place: _Place) -> None:
        assert place.link
        place.state = "loading"
        place.link.send(Prepare())

    def _turn(self) -> list[tuple[int, Any]]:
        """Hear what workers have to say, and replace those that are lost. Returns the answers, by the number of their request."""
        if self._interrupted and not self._draining:
            self._draining = True
            waiting = sum(len(place.lease.missing) for place in self.places if place.lease)
            self.say(f"interrupted: the workers end what they have begun, {waiting} requests; press Ctrl-C again to stop at once")
        answers: list[tuple[int, Any]] = []
        by_link = {place.link: place for place in self.places if place.link}
        for link, message in self.transport.receive(TURN):
            place = by_link.get(link)
            if place is None or place.link is not link:  # it was given up before
                continue
            place.heard = time.monotonic()
            if message is None:
                self._lost(place, link.why())
            elif (answer := self._hear(place, message)) is not None:
                answers.append(answer)
        now = time.monotonic()
        if now - self._turned > AWAY:  # stopped, or busy with answers: messages are waiting
            for place in self.places:
                place.heard = now
        self._turned = now
        for place in self.places:
            limit = SILENCE if place.state in ("ready", "computing") else STARTING
            if place.link and now - place.heard > limit:
                self._lost(place, f"no sign of life for {limit:.0f} s")
        return answers

    def _hear(self, place: _Place, message: FromWorker) -> tuple[int, Any] | None:
        """One message; returns the answer that it brings."""
        match message:
            case Answer():
                self._count(place, Tokens(message.computed, message.shared))
                place.attempts = 0
                number = self._leases.answered(message.lease, message.index) if self._leases else None
                if number is None:
                    return None
                place.answers += 1
                return number, message.response
            case Alive():
                self._count(place, Tokens(message.computed, message.shared))
                place.unfinished = message.unfinished
            case Finished():
                self._finished(place, message)
            case Opened():
                self._opened(place, message)
            case Loading():
                place.percent = message.done * 100 // max(1, message.total)
            case Loaded():
                place.state, place.percent = "ready", 100
            case Failed():
                self._failed(place, message)
        return None

    def _count(self, place: _Place, tokens: Tokens) -> None:
        self._computed += tokens.computed - place.tokens.computed
        self._shared += tokens.shared - place.tokens.shared
        place.tokens = tokens

    def _opened(self, place: _Place, message: Opened) -> None:
        if not self.fingerprint:
            self.fingerprint, self.notices, self._description = message.fingerprint, message.notices, message.description
        elif message.fingerprint != self.fingerprint:
            self.say(
                f"worker {place.number + 1} is refused: its fingerprint is {message.fingerprint}, the first one's {self.fingerprint}; "
                "they must run the same weights with the same libraries"
            )
            self._why_lost = "another fingerprint"
            self._end(place, "gone")
            self._require_workers()
            return
        place.state = "open"
        if self._prepared:
            self._load(place)

    def _finished(self, place: _Place, message: Finished) -> None:
        lease, place.lease, place.unfinished = place.lease, None, ()
        if lease is None or lease.id != message.lease:
            return
        place.state = "ready"
        place.pace = lease.work / max(1e-3, time.monotonic() - place.began)
        if place.number == 0:
            self._description = message.description
        if self._leases and not self._leases.finished(lease.id):
            self._lost(place, "its engine left requests without an answer")

    def _failed(self, place: _Place, message: Failed) -> None:
        """Bad input ends the run, as it would without workers. An engine that fails costs its worker; a server that is gone, its place."""
        if message.exit_code == EvalkitError.exit_code:
            raise EvalkitError(message.message)
        if not self.fingerprint:  # nobody was able to open it
            assert place.link
            raise RunIncomplete(f"the engine can't be opened ({message.message}); {place.link.place}")
        self._lost(place, message.message, is_fault=message.exit_code is None)

    def _lost(self, place: _Place, why: str, is_fault: bool = True) -> None:
        """Lease again what it had not answered, and start another worker in its place."""
        lease, self._why_lost = place.lease, f"{why}; {place.link.place if place.link else ''}"
        self._end(place, "absent" if is_fault else "gone")
        text = f"worker {place.number + 1} is lost: {self._why_lost}"
        if lease and self._leases:
            missing = len(lease.missing)
            aside = self._leases.lost(lease.id, is_fault)
            text += f"; {missing} requests are {'set aside, the second worker was lost with them' if aside else 'given to others'}"
        if place.attempts >= ATTEMPTS:
            place.state = "gone"
        if place.state == "gone":
            text += "; it is not replaced"
        self.say(text)
        if place.state == "absent" and not self._interrupted:
            self._start(place)
        self._require_workers()

    def _end(self, place: _Place, state: str) -> None:
        if place.link:
            place.link.kill()
        place.link, place.lease, place.state, place.unfinished = None, None, state, ()

    def _require_workers(self) -> None:
        if all(place.state == "gone" for place in self.places):
            raise RunIncomplete(f"no worker is left (the last one: {self._why_lost}); what is answered is kept, run the same command again")
