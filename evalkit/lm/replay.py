"""The replay back-end: answers from a recorded run, so that CI can score, compare and report without a model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evalkit.codec import encode
from evalkit.errors import EvalkitError
from evalkit.lm.base import LM
from evalkit.record.read import read_run
from evalkit.runner.journal import Journal, request_key
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods, Request, Response, last_asked


class ReplayLM(LM):
    """Answers under the fingerprint of the recorded run; a request that the run did not make is an error."""

    def __init__(self, run: str):
        self.folder = Path(run)
        try:
            self.model = read_run(self.folder / "run.json").model
        except EvalkitError as error:
            raise EvalkitError(f"replay:{run} needs a run's folder with run.json and journal.sqlite ({error})") from None
        self.fingerprint = self.model.fingerprint
        self.journal = Journal(self.folder / "journal.sqlite", read_only=True)

    def _answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        for i, request in enumerate(requests):
            response = self.journal.get(request_key(self.fingerprint, request))
            if response is None:
                raise EvalkitError(
                    f"replay:{self.folder} holds no answer to a {request.kind} request that begins {last_asked(request)[:60]!r}; "
                    "replay the same tasks, protocol, data and seed as that run"
                )
            yield i, response

    def loglikelihood(self, requests: Sequence[Loglikelihood]) -> Iterator[tuple[int, Loglikelihoods]]:
        for i, response in self._answers(requests):
            assert isinstance(response, Loglikelihoods)
            yield i, response

    def loglikelihood_rolling(self, texts: Sequence[str]) -> Iterator[tuple[int, float]]:
        for i, response in self._answers([Loglikelihood("", (text,), rolling=True) for text in texts]):
            assert isinstance(response, Loglikelihoods)
            yield i, response.logprobs[0]

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
        for i, response in self._answers(requests):
            assert isinstance(response, Generated)
            yield i, response

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = encode(self.model)
        return {key: value for key, value in described.items() if key not in ("fingerprint", "engine")}
