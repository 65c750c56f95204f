"""The one thread that owns the model. It runs all waiting requests as one batch."""

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from evalkit.lm.native_tokens import GenerateRequest, Generation, TokenModel, TokenScore

GATHER_SECONDS = 0.005  # how long the first request waits for others to batch with


@dataclass(frozen=True, slots=True)
class _Generate:
    request: GenerateRequest
    future: "Future[Generation]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Score:
    prompt: Sequence[int]
    num_top: int
    future: "Future[list[TokenScore | None]]" = field(default_factory=Future)


class Dispatcher:
    """`generate` and `score` may be called from any thread; requests that arrive while a batch runs form the next one.

    A future raises what the engine raised for its whole batch, so requests are checked before they come here.
    """

    def __init__(self, model: TokenModel):
        self.model = model
        self._waiting: queue.SimpleQueue[_Generate | _Score | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="evalkit-dispatcher", daemon=True)
        self._thread.start()

    def generate(self, request: GenerateRequest) -> "Future[Generation]":
        """The answer to one request."""
        job = _Generate(request)
        self._waiting.put(job)
        return job.future

    def score(self, prompt: Sequence[int], num_top: int) -> "Future[list[TokenScore | None]]":
        """The log-probabilities of a prompt's tokens."""
        job = _Score(prompt, num_top)
        self._waiting.put(job)
        return job.future

    def close(self) -> None:
        """End after the waiting requests."""
        self._waiting.put(None)

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            time.sleep(GATHER_SECONDS)
            batch, ended = [first], False
            while not self._waiting.empty():
                job = self._waiting.get()
                if job is None:
                    ended = True
                    break
                batch.append(job)
            self._run_batch([job for job in batch if job.future.set_running_or_notify_cancel()])
            if ended:
                return

    def _run_batch(self, batch: Sequence[_Generate | _Score]) -> None:
        scores = [job for job in batch if isinstance(job, _Score)]
        generates = [job for job in batch if isinstance(job, _Generate)]
        try:
            if scores:
                found = self.model.scores([job.prompt for job in scores], max(job.num_top for job in scores))
                for job, tokens in zip(scores, found, strict=True):
                    job.future.set_result(tokens)
            for i, generation in self.model.generate([job.request for job in generates]):
                generates[i].future.set_result(generation)
        except BaseException as error:  # a panic of a Rust library is not an Exception, and would end this thread
            for failed in batch:
                if not failed.future.done():
                    failed.future.set_exception(error)
