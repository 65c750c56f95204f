"""The one thread that owns the model. It runs all requests in flight step by step; requests join and leave between steps."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from evalkit.lm.native_tokens import (
    GenerateRequest,
    Generation,
    InFlight,
    PromptScores,
    PromptScoresRequest,
    TokenModel,
    fault_of,
    trim_heap,
)

IDLE_SECONDS = 1.0  # without a request: memory for keys and values goes back to the operating system


@dataclass(frozen=True, slots=True)
class _Job:
    submit: Callable[[], InFlight]
    future: "Future[Any]"


class Dispatcher:
    """`generate` and `score` may be called from any thread. A future raises EvalkitError where its request is to blame.

    A future that is cancelled takes its request out of flight before the next step.
    """

    def __init__(self, model: TokenModel):
        self.model, self.generator = model, model.serving()
        self._arriving: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._in_flight: dict[InFlight, Future[Any]] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="evalkit-dispatcher", daemon=True)
        self._thread.start()

    def generate(self, request: GenerateRequest) -> "Future[Generation]":
        """The answer to one request."""
        return self._put(lambda: self.generator.submit(request))

    def score(self, prompt: Sequence[int], num_top: int) -> "Future[PromptScores]":
        """The log-probabilities of a prompt's tokens."""
        return self._put(lambda: self.generator.submit_scores(PromptScoresRequest(prompt, num_top)))

    def close(self) -> None:
        """End after the requests in flight."""
        self._arriving.put(None)

    def _put(self, submit: Callable[[], InFlight]) -> "Future[Any]":
        future: Future[Any] = Future()
        self._arriving.put(_Job(submit, future))
        return future

    def _run(self) -> None:
        while self._in_flight or not self._closing:
            self._receive()
            for sequence, future in list(self._in_flight.items()):
                if future.cancelled():
                    self._end(sequence)
            if self._in_flight:
                self._step()

    def _receive(self) -> None:
        """Put what has arrived in flight; with nothing in flight, wait for it."""
        while not self._arriving.empty() or not (self._in_flight or self._closing):
            try:
                job = self._arriving.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                self.generator.pool.trim()
                trim_heap()
                job = self._arriving.get()
            if job is None:
                self._closing = True
            elif not job.future.cancelled():
                try:
                    self._in_flight[job.submit()] = job.future
                except BaseException as error:
                    _fail(job.future, error)

    def _step(self) -> None:
        try:
            self.generator.step()
        except BaseException as error:  # a fault of the scheduler's own: no request can go on
            for sequence, future in list(self._in_flight.items()):
                self._end(sequence)
                _fail(future, error)
            return
        for sequence, future in list(self._in_flight.items()):
            if sequence.error is not None:
                _fail(future, sequence.error)
            elif sequence.has_ended and future.set_running_or_notify_cancel():
                future.set_result(sequence.result)
            if sequence.has_ended:
                self._end(sequence)

    def _end(self, sequence: InFlight) -> None:
        self.generator.cancel(sequence)
        del self._in_flight[sequence]


def _fail(future: "Future[Any]", error: BaseException) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(fault_of(error))
